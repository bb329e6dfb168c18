body = _input.first().json.body
headers = _input.first().json.headers

if headers["x-token"] != _vars.webhook_token:
    return [{"json": {"ok": False, "error": "wrong token"}}]

return [{"json": {
    "ok": True,
    "email": body.email.strip().lower(),
    "tags": [tag.name for tag in body.tags],
}}]
