names = _jmespath(_input.first().json.body, "people[?age > `20`].name")
first = _jmespath(_input.first().json.body, "people[0].{first: name, years: age}")
return [{"json": {"names": names, "first": first}}]
