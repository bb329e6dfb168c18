"""Round-trip times of one webhook, and the processor time the given processes (with children) spent meanwhile.

    bench.py URL CALLS CALLERS [--body JSON] [--pid NAME=PID ...] [--rounds N]

Standard library only. With --rounds the calls are repeated and every round is printed, so that a round that other
work on the machine disturbed can be told from the rest; cpu_ms_per_call is much less sensitive to that.
"""

import argparse
import http.client
import json
import os
import pathlib
import threading
import time
from urllib.parse import urlparse

TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid):
    """Seconds used by pid, its living descendants and its reaped children."""
    kids, used = {}, {}
    for d in pathlib.Path("/proc").iterdir():
        if d.name.isdigit():
            try:
                fields = (d / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            kids.setdefault(int(fields[1]), []).append(int(d.name))
            used[int(d.name)] = sum(map(int, fields[11:15])) / TICK
    total, todo = 0.0, [pid]
    while todo:
        one = todo.pop()
        total += used.get(one, 0.0)
        todo.extend(kids.get(one, []))
    return total


def one_round(a):
    url = urlparse(a.url)
    target = url.path + (f"?{url.query}" if url.query else "")
    lock, left, times, bad, sample = threading.Lock(), [a.calls], [], [], []

    def caller():
        conn = http.client.HTTPConnection(url.hostname, url.port, timeout=120)
        while True:
            with lock:
                if left[0] <= 0:
                    conn.close()
                    return
                left[0] -= 1
            start = time.perf_counter()
            conn.request("POST", target, a.body, {"Content-Type": "application/json"})
            r = conn.getresponse()
            data = r.read()
            took = (time.perf_counter() - start) * 1000
            with lock:
                times.append(took)
                if r.status != 200:
                    bad.append(f"{r.status} {data[:120]!r}")
                elif not sample:
                    sample.append(data[:200].decode("utf8", "replace"))

    pids = dict(p.split("=") for p in a.pid)
    before = {n: cpu(int(p)) for n, p in pids.items()}
    t0 = time.perf_counter()
    threads = [threading.Thread(target=caller) for _ in range(a.callers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    wall = time.perf_counter() - t0
    used = {n: round((cpu(int(p)) - before[n]) * 1000 / a.calls, 1) for n, p in pids.items()}
    ordered = sorted(times)

    def percentile(p):
        return round(ordered[min(len(ordered) - 1, round(p / 100 * (len(ordered) - 1)))], 1)

    out = {
        "url": target,
        "calls": a.calls,
        "callers": a.callers,
        "per_s": round(a.calls / wall, 1),
        "p50_ms": percentile(50),
        "p95_ms": percentile(95),
        "min_ms": percentile(0),
        "max_ms": percentile(100),
        "not_200": len(bad),
        "cpu_ms_per_call": used,
        "load": os.getloadavg()[0],
    }
    if bad:
        out["bad"] = bad[:3]
    if a.sample:
        out["sample"] = sample[:1]
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("calls", type=int)
    parser.add_argument("callers", type=int)
    parser.add_argument("--body", default='{"hello": "world"}')
    parser.add_argument("--pid", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sample", action="store_true")
    arguments = parser.parse_args()
    for _ in range(arguments.rounds):
        one_round(arguments)
