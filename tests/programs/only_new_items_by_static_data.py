static = _getWorkflowStaticData('global')
last_id = static.lastId if "lastId" in static else 0

new_items = [item for item in _input.all() if item.json.id > last_id]
if new_items:
    static.lastId = max(item.json.id for item in new_items)

return new_items
