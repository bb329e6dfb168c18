from statistics import mean, median

values = [float(item.json.value) for item in _input.all() if item.json.get("value") is not None]
print("values:", values)
return {
    "count": len(values),
    "mean": round(mean(values), 2),
    "median": median(values),
    "region": _ifEmpty(_vars.region, "everywhere"),
}
