items = _input.all().to_py()
rows = [i["json"] for i in items]
for row in rows:
    row["full_name"] = row.pop("first") + " " + row.pop("last")
return [{"json": row} for row in rows]
