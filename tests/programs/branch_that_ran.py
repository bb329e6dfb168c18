if _("Paid").isExecuted:
    source = _("Paid").first().json
else:
    source = _("Unpaid").first().json
return [{"json": {"from": _prevNode.name, "run": _runIndex, "state": source.state, "workflow": _workflow.name}}]
