import re

text = _input.item.json.text
emails = re.findall(r"[\w.+-]+@[\w-]+\.[\w.]+", text)
phones = re.findall(r"\+?\d[\d ()-]{6,}\d", text)
_input.item.json.emails = emails
_input.item.json.phones = [re.sub(r"\D", "", phone) for phone in phones]
return _input.item
