due = _now.plus({"days": _json.days}).startOf("day")
return {"json": {
    "future": due > _now,
    "days": round(due.diff(_today, "days").days),
    "iso": len(due.toISO()) == len("2026-11-21T00:00:00.000+01:00"),
    "text": due.toFormat("yyyy-MM-dd") == due.toISODate(),
    "zone": _now.zoneName,
}}
