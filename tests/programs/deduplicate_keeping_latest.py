latest = {}
for item in _input.all():
    key = item.json.email.lower()
    if key not in latest or latest[key].json.updated < item.json.updated:
        latest[key] = item
return list(latest.values())
