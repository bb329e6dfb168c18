"""Attacks through modules: forbidden ones by other roads, and what allowed ones hold in their pockets.

The standard library's modules refer to `os`, `sys` and `builtins` everywhere: what is allowed with them is the whole
language, and only the kernel is left.
"""

from __future__ import annotations

from tests.containment.corpus import CLASSES, DENIED, LOOK, SAFE, Blocked, Contained, Ends, Gives, hostile, refused

# --- forbidden modules

for _name, _code in {
    "plain-import": "import os\nreturn os.listdir('/')",
    "from-import": "from os import path\nreturn path.exists('/')",
    "import-as": "import os.path as p\nreturn p.exists('/')",
    "dunder-import": "return __import__('os').listdir('/')",
    "import-in-a-lambda": "return (lambda: __import__('os'))().listdir('/')",
}.items():
    hostile(
        f"forbidden-{_name}",
        "import machinery",
        _code,
        compat=refused("os", "os.path"),
        unchecked=Contained(),
        relaxed=refused("os", "os.path"),
    )
hostile(
    "dynamic-import",
    "import machinery",
    'name = "o" + "s"\nreturn __import__(name).listdir("/")',
    compat=Ends(("Dynamic __import__() calls",)),
    relaxed=Ends(("Security violation detected",)),
    unchecked=DENIED,
)
hostile(
    "import-function-under-another-name",
    "import machinery",
    'f = __import__\nreturn f("o" + "s").listdir("/")',
    compat=Ends(("Security violation detected",)),
    relaxed=Ends(("Security violation detected",)),
    unchecked=DENIED,
)
hostile(
    "relative-import",
    "import machinery",
    "from .. import zygote\nreturn 1",
    compat=Ends(("Relative imports",)),
    relaxed=Ends(("Relative imports",)),
    unchecked=Ends(("Relative imports", "relative import")),
)
hostile(
    "importlib-import-module",
    "import machinery",
    'import importlib\nreturn importlib.import_module("sub" + "process").run(["id"])',
    compat=Ends(("Security violation detected",)),
    relaxed=Ends(("Security violation detected",)),
    unchecked=DENIED,
    allow=LOOK,
)
hostile(
    "importlib-loader-by-hand",
    "import machinery",
    """
    import importlib.machinery, importlib.util
    path = _items[0]["json"]["secret_file"]
    spec = importlib.util.spec_from_file_location("secret", path)
    module = importlib.util.module_from_spec(spec) if spec else None
    return str(importlib.machinery.SourceFileLoader("x", path).get_data(path))
    """,
    compat=DENIED,
    relaxed=DENIED,
    unchecked=DENIED,
    allow=LOOK,
)
hostile(
    "sys-modules",
    "import machinery",
    """
    import sys
    return [name for name in ("subprocess", "socket", "ctypes", "posix", "_posixsubprocess") if name in sys.modules]
    """,
    compat=Gives([]),
    relaxed=Gives([]),
    allow=LOOK,
)
hostile(
    "sys-modules-put-back",
    "import machinery",
    """
    import sys
    sys.modules["json"] = sys.modules["os"] if "os" in sys.modules else sys
    sys.path.insert(0, _items[0]["json"]["folder"])
    sys.meta_path.insert(0, None)
    return 1
    """,
    compat=Gives(1),
    relaxed=Gives(1),
    unchecked=Gives(1),
    allow=LOOK,
)
hostile(
    "pkgutil-resolve-name",
    "import machinery",
    'import pkgutil\nreturn str(pkgutil.resolve_name("subprocess:run")(["id"]))',
    compat=DENIED,
    relaxed=DENIED,
    unchecked=DENIED,
    allow=LOOK,
)
hostile(
    "module-of-ours",
    "import machinery",
    "from trio_runner.sandbox import child, lockdown\nreturn str(vars(child))[:10]",
    compat=Ends(("Import of external package 'trio_runner.sandbox'", "'trio_runner")),
    relaxed=Ends(("Import of external package 'trio_runner.sandbox'", "'trio_runner")),
    unchecked=Contained(),
)
hostile(
    "lockdown-undone",
    "import machinery",
    """
    import os, signal
    from trio_runner.sandbox import lockdown, landlock, seccomp
    out = {}
    def attempt(name, action):
        try:
            out[name] = f"OK {action()!r}"
        except BaseException as error:
            out[name] = type(error).__name__
    attempt("prepare", lambda: lockdown.prepare(lockdown.Confinement(mode="off")))
    attempt("ruleset", lambda: landlock.make_ruleset(landlock.Grants(read=("/",), write=("/",))))
    attempt("uid", lambda: os.setresuid(0, 0, 0))
    attempt("file", lambda: open(_items[0]["json"]["secret_file"]).read())
    return out
    """,
    compat=Ends(("'os'",)),
    unchecked=Blocked(("OSError", "PermissionError")),
    relaxed=Ends(("'os'",)),
)

# --- what allowed modules hold (each of these is in @safe)

for _name, _code in {
    "codecs-open": "import codecs\nreturn codecs.open(path).read()",
    "codecs-builtins": "import codecs\nreturn codecs.builtins.open(path).read()",
    "random-os": "import random\nreturn random._os.open(path, 0)",
    "uuid-os-popen": "import uuid\nreturn uuid.os.popen('cat ' + path).read()",
    "tokenize-open": "import tokenize\nreturn tokenize.open(path).read()",
    "mimetypes-read": "import mimetypes\nreturn mimetypes.MimeTypes().read(path)",
    "xml-entity": ("import xml.etree.ElementTree as tree\nreturn tree.parse(path).getroot().text"),
    "xml-sax-external": "import xml.sax\nreturn xml.sax.parse(path, xml.sax.ContentHandler())",
    "calendar-sys-modules": "import calendar\nreturn calendar.sys.modules['posix'].open(path, 0)",
    "statistics-sys": "import statistics\nreturn statistics.sys.modules['io'].open(path).read()",
    "enum-sys-exit": "import enum\nreturn enum.sys.modules['posix'].open(path, 0)",
    "zoneinfo-key": "import zoneinfo\nreturn str(zoneinfo.ZoneInfo('../../../../../..' + path))",
    "types-function": ("import types\ncode = compile('open(%r).read()' % path, 'x', 'eval')\nreturn eval(code)"),
    "operator-attrgetter": (
        "import operator\nbase = operator.attrgetter('_' * 2 + 'class' + '_' * 2 + '.' + '_' * 2 + 'base' + '_' * 2)\n"
        "return base(()).__subclasses__()"
    ),
    "functools-reduce-walk": (
        "import functools, operator\n"
        "walk = functools.reduce(lambda o, n: operator.attrgetter('_' * 2 + n + '_' * 2)(o), ['class', 'base'], ())\n"
        "kinds = operator.methodcaller('_' * 2 + 'subclasses' + '_' * 2)(walk)\n"
        "found = [k for k in kinds if operator.attrgetter('_' * 2 + 'name' + '_' * 2)(k) == '_wrap_close'][0]\n"
        "spaces = operator.attrgetter('_' * 2 + 'init' + '_' * 2 + '.' + '_' * 2 + 'globals' + '_' * 2)(found)\n"
        "return spaces['open'](path, 0)"
    ),
}.items():
    hostile(
        f"safe-{_name}",
        "import machinery",
        f'path = _items[0]["json"]["secret_file"]\n{_code}',
        compat=Ends(
            (
                "Permission denied",
                "Operation not permitted",
                "is not defined",
                "is disallowed",
                "ZoneInfo",
                "KeyError",
                "keys must",
            )
        ),
        unchecked=Ends(("Permission denied", "Operation not permitted", "keys must", "needs an argument"))
        if _name != "operator-attrgetter"
        else Contained(),
        relaxed=Contained(),
        allow=SAFE,
    )

# --- modules that do I/O, allowed by name

hostile(
    "os-allowed",
    "import machinery",
    """
    import os
    T = _items[0]["json"]
    out = {}
    def attempt(name, action):
        try:
            out[name] = f"OK {action()!r}"
        except OSError as error:
            out[name] = str(error.errno)
    attempt("read", lambda: os.open(T["secret_file"], os.O_RDONLY))
    attempt("list", lambda: os.listdir(T["folder"]))
    attempt("write", lambda: os.open(T["folder"] + "/x", os.O_WRONLY | os.O_CREAT))
    attempt("remove", lambda: os.remove(T["own_file"]))
    attempt("system", lambda: os.posix_spawn("/bin/true", ["true"], {}))
    attempt("kill", lambda: os.kill(T["canary_pid"], 15))
    return out
    """,
    compat=Blocked(("1", "13")),
    unchecked=Blocked(("1", "13")),
    relaxed=Blocked(("1", "13")),
    allow=LOOK,
)
hostile(
    "environment",
    "import machinery",
    """
    import os
    known = [name for name in os.environ if not name.startswith(("LC_", "TZ"))]
    return [known, os.getenv("CANARY_SECRET"), os.environb.get(b"CANARY_SECRET")]
    """,
    compat=Gives([[], None, None]),
    unchecked=Gives([[], None, None]),
    relaxed=Gives([[], None, None]),
    allow=LOOK,
)
hostile(
    "asyncio-subprocess-and-server",
    "import machinery",
    """
    import asyncio
    T = _items[0]["json"]
    async def main():
        out = {}
        for name, start in {
            "connect": lambda: asyncio.open_connection("127.0.0.1", T["tcp_port"]),
            "unix": lambda: asyncio.open_unix_connection(T["unix_path"]),
            "serve": lambda: asyncio.start_unix_server(lambda r, w: None, T["folder"] + "/served"),
            "process": lambda: asyncio.create_subprocess_exec("/bin/true"),
        }.items():
            try:
                out[name] = f"OK {await start()!r}"
            except OSError as error:
                out[name] = str(error.errno)
        return out
    return asyncio.run(main())
    """,
    compat=Blocked(("1", "13")),
    unchecked=Blocked(("1", "13")),
    relaxed=Blocked(("1", "13")),
    allow=LOOK,
)
hostile(
    "metaclass-imports-on-equality",
    "classes",
    """
    class Meta(type):
        def __eq__(cls, other): return __import__("os").listdir("/")
        def __hash__(cls): return hash(str)
    class A(metaclass=Meta): pass
    return A()
    """,
    compat=refused("os"),
    relaxed=refused("os"),
    allow=CLASSES,
)
