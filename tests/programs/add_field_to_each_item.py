# Add a new field called 'myNewField' to the JSON of the item
_input.item.json.myNewField = 1
return _input.item
