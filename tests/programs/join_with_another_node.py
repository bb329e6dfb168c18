customers = {}
for item in _("Get customers").all():
    customers[item.json.id] = item.json.name

result = []
for item in _input.all():
    order = item.json.to_py()
    order["customer"] = customers.get(order["customer_id"], "unknown")
    result.append({"json": order})
return result
