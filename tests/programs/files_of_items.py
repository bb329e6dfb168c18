out = []
for item in _input.all():
    for name in item.binary.object_keys():
        file = item.binary[name]
        out.append({"json": {"name": file.fileName, "type": file.mimeType, "field": name}, "binary": {name: file}})
return out
