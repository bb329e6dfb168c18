"""Shows what n8n stored for its latest executions:  last_execution.py DATA_DIR [HOW_MANY] [--full]

Reads the sqlite file; the stored run data is a flat array in which strings that are numbers point at other entries.
Standard library only. The tests import `latest()`.
"""

import contextlib
import json
import pathlib
import sqlite3
import sys

QUERY = """
    select e.id, w.name, e.status, e.mode, d.data from execution_entity e
    left join execution_data d on d.executionId = e.id
    left join workflow_entity w on w.id = e.workflowId
    order by e.id desc limit ?
"""


def unflatten(text):
    flat = json.loads(text)
    seen = {}

    def at(i):
        if i in seen:
            return seen[i]
        v = flat[i]
        # containers are entered into `seen` before they are filled: the data may be circular
        if isinstance(v, dict):
            seen[i] = out = {}
            out.update({k: ref(x) for k, x in v.items()})
        elif isinstance(v, list):
            seen[i] = out = []
            out.extend(ref(x) for x in v)
        else:
            seen[i] = out = v
        return out

    def ref(x):
        return at(int(x)) if isinstance(x, str) else x

    return at(0)


def latest(data_dir, many=1):
    """The newest executions, newest first: dicts with id, workflow (its name), status, mode and result.

    `result` is n8n's resultData: `error`, and `runData` by node name. A running n8n may go on writing meanwhile.
    """
    db = next(pathlib.Path(data_dir).rglob("database.sqlite"))
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=10)) as con:
        rows = con.execute(QUERY, (many,)).fetchall()
    return [
        {
            "id": int(id_),
            "workflow": workflow,
            "status": status,
            "mode": mode,
            "result": unflatten(data).get("resultData", {}) if data else {},
        }
        for id_, workflow, status, mode, data in rows
    ]


def show(execution, full):
    print(f"execution {execution['id']}  {execution['workflow']}  {execution['status']}  {execution['mode']}")
    result = execution["result"]
    if full:
        print(json.dumps(result, indent=1, default=str)[:20000])
        return
    error = result.get("error")
    if error:
        wanted = ("name", "message", "description", "lineNumber", "context")
        print("  error:", json.dumps({k: error.get(k) for k in wanted if error.get(k) is not None})[:3000])
    for name, runs in (result.get("runData") or {}).items():
        for r in runs:
            items = [len(b) if b else 0 for b in (r.get("data") or {}).get("main", [])] if r.get("data") else None
            print(f"  {name}: {r.get('executionStatus')} {r.get('executionTime')} ms, items out {items}")


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].isdigit() else 1
    for one in latest(sys.argv[1], count):
        show(one, "--full" in sys.argv)
