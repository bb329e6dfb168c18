import json

columns = list(_input.first().json.object_keys())
lines = [",".join(columns)]
for item in _input.all():
    lines.append(",".join(json.dumps(item.json[column]) for column in columns))
return [{"json": {"csv": "\n".join(lines), "rows": _input.all().length}}]
