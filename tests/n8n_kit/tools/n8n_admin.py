"""Talks to the web API of the loopback n8n as its (throw-away) owner.  Standard library only.

n8n_admin.py PORT sync DIR        create or update DIR/*.json and activate those marked active
n8n_admin.py PORT running         list running executions
n8n_admin.py PORT stop ID|all     stop one or all running executions (this is the editor's stop button)
n8n_admin.py PORT run NAME        start a workflow by hand, as the editor does (print() then goes to the editor's
                                  push channel, which this command opens and prints for SECONDS_TO_LISTEN, default 5)
The tests import `Admin`.
"""

import contextlib
import http.cookiejar
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

OWNER = {"email": "owner@example.test", "firstName": "Loop", "lastName": "Back", "password": "Loopback-1-Test"}
BROWSER = {"browser-id": "loopback-kit"}  # n8n ties the session cookie to it


class Admin:
    """A signed-in session. Creates the owner on an n8n that has none yet."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}/rest"
        jar = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(strict_domain=False))
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        settings = self.call("GET", "/settings")
        if settings.get("userManagement", {}).get("showSetupOnFirstLoad"):
            self.call("POST", "/owner/setup", OWNER)
        else:
            login = {"emailOrLdapLoginId": OWNER["email"], "email": OWNER["email"], "password": OWNER["password"]}
            self.call("POST", "/login", login)

    def call(self, method, path, body=None, headers=None):
        request = urllib.request.Request(
            self.base + path,
            None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json", **BROWSER, **(headers or {})},
        )
        try:
            with self.opener.open(request, timeout=60) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                raise RuntimeError(f"{method} {path}: {e.code} {e.read().decode()[:500]}") from None
        data = json.loads(text) if text else {}
        return data.get("data", data)

    def workflows(self):
        return {w["name"]: w for w in self.call("GET", "/workflows?take=200")}

    def sync(self, folder):
        """Creates or updates every workflow of the folder; returns how many are active now."""
        have = self.workflows()
        active = 0
        for file in sorted(pathlib.Path(folder).glob("*.json")):
            doc = json.loads(file.read_text())
            want_active = doc.pop("active", False)
            doc.pop("id", None)
            if doc["name"] in have:
                got = self.call("PATCH", f"/workflows/{have[doc['name']]['id']}?forceSave=true", doc)
            else:
                got = self.call("POST", "/workflows", doc)
            if want_active:
                self.call("POST", f"/workflows/{got['id']}/activate", {"versionId": got["versionId"]})
                active += 1
        return active

    def running(self):
        wanted = urllib.parse.quote(json.dumps({"status": ["running"]}))
        got = self.call("GET", f"/executions?filter={wanted}")
        return got.get("results", got) if isinstance(got, dict) else got

    def stop(self, execution_id):
        return self.call("POST", f"/executions/{execution_id}/stop", {})

    def run(self, name, seconds_to_listen=5.0, enough=lambda _pushed: False):
        """Runs a workflow by hand; returns (n8n's answer, lines of the push channel).

        Listens until the time is over or `enough(lines)` says so.
        """
        found = next((w for n, w in self.workflows().items() if name in (n, w.get("id"))), None)
        if not found:
            raise RuntimeError(f"no workflow named {name!r}")
        workflow = self.call("GET", f"/workflows/{found['id']}")
        ref = "kitpush1"
        trigger = next(n["name"] for n in workflow["nodes"] if n["type"].lower().endswith(("trigger", "webhook")))
        body = {"workflowData": workflow, "triggerToStartFrom": {"name": trigger}, "runData": {}, "startNodes": []}
        request = urllib.request.Request(f"{self.base}/push?pushRef={ref}", headers=BROWSER)
        pushed = []
        # the channel must be open before the run starts; it is once the head of the response is here
        with self.opener.open(request, timeout=seconds_to_listen) as channel:
            answer = self.call("POST", f"/workflows/{workflow['id']}/run", body, {"push-ref": ref})
            until = time.monotonic() + seconds_to_listen
            with contextlib.suppress(TimeoutError):
                while time.monotonic() < until and not enough(pushed):
                    line = channel.readline()
                    if not line:
                        break
                    if line.strip():
                        pushed.append(line.decode().strip())
        return answer, pushed


def main(port, command, *rest):
    admin = Admin(port)
    match command, rest:
        case "sync", [folder]:
            print(f"{admin.sync(folder)} workflows active")
        case "running", []:
            for e in admin.running():
                print(e.get("id"), e.get("workflowName"), e.get("status"), e.get("startedAt"))
        case "stop", [which]:
            for i in [e["id"] for e in admin.running()] if which == "all" else [which]:
                print(json.dumps(admin.stop(i)))
        case "run", [name]:
            answer, pushed = admin.run(name, float(os.environ.get("SECONDS_TO_LISTEN", "5")))
            print("run:", json.dumps(answer))
            for line in pushed:
                print("push:", line[:1500])
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
