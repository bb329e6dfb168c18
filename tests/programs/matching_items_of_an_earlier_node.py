results = []
for index, item in enumerate(_input.all()):
    original = _("Get customers").itemMatching(index)
    results.append({"json": {"name": original.json.name, "score": item.json.score}, "pairedItem": index})
return results
