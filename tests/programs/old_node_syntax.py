response = _node["HTTP Request"].json
settings = _node["Settings"]["json"]
return [{"json": {"status": response.status, "limit": settings["limit"], "name": response["data"].name}}]
