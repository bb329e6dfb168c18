_execution.customData.set("orderId", str(_json.order.id))
_execution.customData.setAll({"customer": _json.order.customer, "source": "shop"})
return [{"json": {"execution": _execution.id, "mode": _execution.mode, "tags": _execution.customData.getAll()}}]
