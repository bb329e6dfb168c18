data = _getWorkflowStaticData("node")
data["runs"] = data.get("runs", 0) + 1
return [{"json": {"runs": data["runs"]}}]
