"""Attacks on the runner through the task's own socket: forged frames, floods, silence.

A child can always say what it likes on its own channel; it must cost, or forge, nothing but its own result.
"""

from __future__ import annotations

import textwrap

from tests.containment.corpus import Blocked, Contained, Ends, Expectation, Gives, hostile, refused

PRELUDE = """
import os, socket, struct, sys
T = _items[0]["json"]
frame = sys._getframe()
while frame is not None and "sock" not in frame.f_locals:
    frame = frame.f_back
channel = frame.f_locals["sock"]
def send(kind, payload):
    channel.sendall(bytes([kind]) + len(payload).to_bytes(4, "little") + payload)
def text(value):  # msgpack, short texts only
    raw = value.encode()
    return b"\\xd9" + bytes([len(raw)]) + raw
VERDICT, PRINT, RESULT, FAILURE = 16, 17, 18, 19
"""


def forge(name: str, code: str, unchecked: Expectation) -> None:
    hostile(
        f"forge-{name}",
        "channel forging",
        PRELUDE.strip() + "\n" + textwrap.dedent(code).strip(),
        compat=refused("os"),
        relaxed=refused("os"),
        unchecked=unchecked,
    )


forge("own-result", "send(RESULT, b'\"forged\"')\nos._exit(0)", Gives("forged"))
forge(
    "two-results",
    'send(RESULT, b"1")\nsend(RESULT, b"2")\nsend(FAILURE, b"x")\nos._exit(0)',
    Gives(1),
)
forge(
    "envelope-break-out",
    """
    send(RESULT, b'[]},"taskId":"other","data":{"result":[]')
    os._exit(0)
    """,
    Ends(("returned no result",)),
)
forge("result-that-is-no-text", "send(RESULT, b'\"\\xff\\xfe\"')\nos._exit(0)", Ends(("returned no result",)))
forge("result-that-is-empty", 'send(RESULT, b"")\nos._exit(0)', Ends(("returned no result",)))
forge("thousands-of-brackets", 'send(RESULT, b"[" * 100_000)\nos._exit(0)', Ends(("returned no result",)))
forge(
    "length-beyond-everything",
    'channel.sendall(b"\\x12\\xff\\xff\\xff\\xff" + b"x" * 1000)\nos._exit(0)',
    Ends(("no result",)),
)
forge("unknown-kind", 'send(99, b"x")\nos._exit(0)', Ends(("returned no result",)))
forge("runner's-own-kinds", 'send(2, b"x")\nos._exit(0)', Ends(("returned no result",)))
forge("half-a-frame", 'channel.sendall(b"\\x12\\x10\\x00\\x00\\x00{")\nos._exit(0)', Ends(("Failed to read result",)))
forge("verdict-after-the-fact", 'send(VERDICT, b"\\x80")\nsend(RESULT, b"1")\nos._exit(0)', Contained())
forge("failure-that-is-no-failure", 'send(FAILURE, b"\\xc1\\xff")\nos._exit(0)', Ends(("returned no result",)))
forge(
    "failure-with-a-long-text",
    """
    raw = b"x" * 6_000_000
    long = b"\\xdb" + len(raw).to_bytes(4, "big") + raw
    send(FAILURE, b"\\x82" + text("message") + long + text("kind") + text("error"))
    os._exit(0)
    """,
    Ends(("xxx",)),
)
forge(
    "prints-that-are-none",
    """
    for payload in (b"null", b"[1]", b'["\\\\ud800"]', b"{}", b'["a"', b"\\xff"):
        send(PRINT, payload)
    send(RESULT, b"1")
    os._exit(0)
    """,
    Ends(("no result", "internal error")),
)
forge(
    "print-with-half-a-character",
    'send(PRINT, b\'["\\\\ud800"]\')\nsend(RESULT, b"1")\nos._exit(0)',
    Contained(),
)
forge(
    "print-flood",
    """
    for _ in range(5_000):
        send(PRINT, b'["x"]')
    send(RESULT, b"1")
    os._exit(0)
    """,
    Contained(),
)
forge(
    "descriptors-as-a-gift",
    """
    a, b = os.pipe()
    for _ in range(3):
        socket.send_fds(channel, [b"\\x11\\x02\\x00\\x00\\x00[]"], [a, b] * 50)
    send(RESULT, b"1")
    os._exit(0)
    """,
    Gives(1),
)
forge(
    "urgent-data",
    """
    try:
        channel.send(b"x", socket.MSG_OOB)
    except OSError:
        pass
    send(RESULT, b"1")
    os._exit(0)
    """,
    Contained(),
)
forge(
    "hang-up-and-stay",
    """
    import time
    channel.shutdown(socket.SHUT_RDWR)
    time.sleep(0.1)
    """,
    Contained(),
)
forge(
    "own-address-and-peer",
    """
    pid, uid, gid = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return {"peer": "zygote" if pid == T["zygote_pid"] else str(pid)}
    """,
    Blocked(("zygote",)),
)
forge(
    "pose-as-a-refusal",
    """
    send(FAILURE, b"\\x83" + text("message") + text("Security violations detected")
         + text("kind") + text("violation") + text("before_start") + b"\\xc3")
    os._exit(0)
    """,
    Ends(("Security violations detected",)),
)
