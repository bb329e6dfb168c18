items = []
for product in _input.first().json.products:
    items.append({"json": {"sku": product.sku, "price": product.price, "category": _input.first().json.category}})
return items
