from datetime import datetime, timedelta

out = []
for item in _input.all():
    created = datetime.fromisoformat(item.json.created.replace("Z", "+00:00"))
    age = _now - created
    out.append({"json": {"id": item.json.id, "old": age > timedelta(days=30), "month": created.strftime("%B %Y")}})
return out
