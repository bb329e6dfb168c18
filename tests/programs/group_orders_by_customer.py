from collections import defaultdict

totals = defaultdict(lambda: {"orders": 0, "amount": 0})
for item in _input.all():
    order = item.json
    entry = totals[order.customer]
    entry["orders"] += 1
    entry["amount"] = round(entry["amount"] + order.amount, 2)

return [
    {"json": {"customer": name, **entry}}
    for name, entry in sorted(totals.items(), key=lambda pair: -pair[1]["amount"])
]
