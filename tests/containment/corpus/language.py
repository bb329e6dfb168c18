"""Attacks that need nothing but the language: roads to names, frames and modules that source checks try to close.

Each goes for the canary file, so that without source checks it ends at the kernel and not just in an object that looks
interesting.
"""

from __future__ import annotations

from tests.containment.corpus import CLASSES, DENIED, LOOK, SAFE, Contained, Ends, Gives, hostile, refused

# --- dunder walks

hostile(
    "subclasses-to-popen",
    "dunder walk",
    """
    path = _items[0]["json"]["secret_file"]
    for kind in ().__class__.__base__.__subclasses__():
        if kind.__name__ == "_wrap_close":
            return kind.__init__.__globals__["popen"]("cat " + path).read()
    return "not found"
    """,
    compat=refused("__class__"),
    unchecked=DENIED,
    relaxed=DENIED,
)
hostile(
    "mro-to-file-loader",
    "dunder walk",
    """
    path = _items[0]["json"]["secret_file"]
    for kind in "".__class__.__mro__[-1].__subclasses__():
        if kind.__name__ == "FileLoader":
            return str(kind("x", path).get_data(path))
    for kind in "".__class__.__mro__[-1].__subclasses__():
        for deeper in type.__subclasses__(kind):
            if deeper.__name__ == "SourceFileLoader":
                return str(deeper("x", path).get_data(path))
    return "not found"
    """,
    compat=refused("__mro__"),
    unchecked=DENIED,
    relaxed=DENIED,
)
hostile(
    "bound-method-self-is-builtins",
    "dunder walk",
    'return len.__self__.open(_items[0]["json"]["secret_file"]).read()',
    compat=refused("__self__"),
    unchecked=DENIED,
    relaxed=DENIED,
)
hostile(
    "function-globals",
    "dunder walk",
    """
    def f(): pass
    return f.__globals__["__builtins__"]["open"](_items[0]["json"]["secret_file"]).read()
    """,
    compat=refused("__globals__"),
    unchecked=DENIED,
    relaxed=Ends(("'open'",)),
)
hostile(
    "reduce-ex-to-copyreg",
    "dunder walk",
    """
    maker = ().__reduce_ex__(2)[0]
    return maker.__globals__["sys"].modules["io"].open(_items[0]["json"]["secret_file"]).read()
    """,
    compat=refused("__reduce_ex__"),
    unchecked=Ends(("Permission denied", "'sys'", "__globals__")),
)
hostile(
    "getattribute-with-a-built-name",
    "dunder walk",
    """
    name = chr(95) * 2 + "class" + chr(95) * 2
    return str("".__getattribute__(name).__mro__)
    """,
    compat=refused("__getattribute__"),
)
hostile(
    "code-object-with-another-name",
    "dunder walk",
    """
    def f(): return fn
    f.__code__ = f.__code__.replace(co_names=("open",))
    return f()(_items[0]["json"]["secret_file"]).read()
    """,
    compat=refused("__code__"),
    unchecked=DENIED,
    relaxed=Ends(("'open'",)),
)
hostile(
    "code-object-of-nonsense",
    "dunder walk",
    """
    def f(): return 1
    f.__code__ = f.__code__.replace(co_code=bytes([100, 255]) * 64)
    return str(f())
    """,
    compat=refused("__code__"),
)
hostile(
    "closure-cells-of-our-own-print",
    "dunder walk",
    """
    found = []
    for name in ("call", "closure", "self", "func", "wrapped", "globals"):
        try:
            found.append(str(getattr(print, "__" + name + "__")))
        except AttributeError:
            pass
    return found
    """,
    compat=Ends(("'getattr'",)),
    unchecked=Gives([]),
    relaxed=Gives([]),
)

# --- denied builtins by other roads

hostile(
    "open",
    "denied builtins",
    'return open(_items[0]["json"]["secret_file"]).read()',
    compat=Ends(("name 'open' is not defined",)),
    unchecked=DENIED,
    relaxed=Ends(("name 'open' is not defined",)),
)
hostile(
    "eval-exec-compile",
    "denied builtins",
    """
    path = _items[0]["json"]["secret_file"]
    names = {}
    exec(compile("def read(): return open(%r).read()" % path, "<x>", "exec"), names)
    return eval("read()", names)
    """,
    compat=Ends(("'exec'", "'compile'")),
    unchecked=DENIED,
    relaxed=Ends(("'exec'", "'compile'")),
)
hostile(
    "vars-and-globals",
    "denied builtins",
    """
    found = {**globals(), **vars()}
    return found["__builtins__"]["open"](found["_items"][0]["json"]["secret_file"]).read()
    """,
    compat=refused("__builtins__"),
    unchecked=DENIED,
)
hostile(
    "help-and-breakpoint-and-input",
    "denied builtins",
    """
    said = []
    for action in (lambda: input("?"), lambda: breakpoint(), lambda: help("return"), lambda: exit(3)):
        try:
            said.append(str(action()))
        except BaseException as error:
            said.append(str(error))
    return len(said)
    """,
    compat=Gives(4),
    relaxed=Gives(4),
)
hostile(
    "open-through-a-default-argument",
    "denied builtins",
    """
    def read(path, opener=open):
        return opener(path).read()
    return read(_items[0]["json"]["secret_file"])
    """,
    compat=Ends(("name 'open' is not defined",)),
    unchecked=DENIED,
)
hostile(
    "memoryview-of-foreign-memory",
    "denied builtins",
    """
    view = memoryview(bytearray(16)).cast("B")
    return [view[i] for i in range(10**6)]
    """,
    compat=Ends(("name 'memoryview' is not defined",)),
    unchecked=Ends(("index out of bounds",)),
)

# --- the builtins dict

hostile(
    "builtins-by-name",
    "builtins dict",
    'return __builtins__["open"](_items[0]["json"]["secret_file"]).read()',
    compat=refused("__builtins__"),
    unchecked=DENIED,
)
hostile(
    "builtins-poisoned-for-the-next-task",
    "builtins dict",
    """
    __builtins__["len"] = lambda value: 42
    __builtins__["sorted"] = None
    return len([])
    """,
    compat=refused("__builtins__"),
    unchecked=Gives(42),
)
hostile(
    "builtins-of-a-module-poisoned",
    "builtins dict",
    """
    import builtins
    builtins.len = builtins.sum = lambda value: 42
    builtins.__import__ = None
    return len([])
    """,
    compat=Contained(),
    allow=LOOK,
)
hostile(
    "builtins-attribute-of-a-name",
    "builtins dict",
    'return builtins["__import__"]("os").listdir(_items[0]["json"]["folder"])',
    compat=refused("__import__"),
    unchecked=Ends(("'builtins'",)),
)

# --- format strings

_TEMPLATES = {
    "literal": '"{0.__class__.__mro__}".format(1)',
    "keyword": '"{x.__init__.__globals__}".format(x=print)',
    "key": '"{x[__globals__]}".format(x={})',
    "nested-spec": '"{0:{1.__class__}}".format(1, 2)',
    "concatenated": '("{0.__cl" + "ass__}").format(1)',
    "f-string": 'f"{(lambda: 0).__globals__}"',
}
for _name, _expression in _TEMPLATES.items():
    hostile(
        f"template-{_name}",
        "format strings",
        f"return {_expression}",
        compat=Ends(("is disallowed",)),
    )
_DATA = '"".join(["{0", ".", "_" * 2, "cla", "ss", "_" * 2, "}"])'
for _name, _expression in {
    "method": "template.format(1)",
    "format-map": '"".join(["{a", template[2:]]).format_map({"a": 1})',
    "unbound": "str.format(template, 1)",
    "by-map": "[t for t in map(lambda t: t.format(1), [template])]",
    "replaced": 'template.replace("class", "doc").replace("doc", "class").format(1)',
}.items():
    hostile(
        f"template-as-data-{_name}",
        "format strings",
        f"template = {_DATA}\nreturn str({_expression})",
        compat=Ends(("Security violation detected",)),
    )
hostile(
    "format-bound-method-extracted",
    "format strings",
    f"template = {_DATA}\nf = template.format\nreturn f(1)",
    compat=Ends(("Extracting 'format' as a bound method",)),
)
hostile(
    "format-string-formatter",
    "format strings",
    f"import string\ntemplate = {_DATA}\nreturn string.Formatter().vformat(template, (1,), {{}})",
    compat=Ends(("Security violation detected",)),
    allow=SAFE,
)
hostile(
    "format-userstring",
    "format strings",
    f"from collections import UserString\nreturn UserString({_DATA}).format(1)",
    compat=Ends(("Security violation detected",)),
    allow=SAFE,
)
hostile(
    "format-formatter-with-own-get-field",
    "format strings",
    """
    import string
    class F(string.Formatter):
        def parse(self, text):
            return [("", "0." + "_" * 2 + "class" + "_" * 2, "", None)]
    return F().format("x", 1)
    """,
    compat=Contained(),
    allow=CLASSES,
)
hostile(
    "format-lying-text",
    "format strings",
    f"""
    class Lie(str):
        def __str__(self): return "harmless"
        def __iter__(self): return iter("harmless")
        def __contains__(self, other): return False
    return Lie({_DATA}).format(1)
    """,
    compat=Ends(("Security violation detected",)),
    allow=CLASSES,
)
hostile(
    "format-spec-object",
    "format strings",
    """
    class Spec:
        def __format__(self, spec): return str(spec.__len__.__self__)
    return "{0:{1}}".format(Spec(), "__self__")
    """,
    compat=refused("__self__"),
    allow=CLASSES,
)

# --- match patterns

hostile(
    "match-class-keyword",
    "match patterns",
    """
    match print:
        case tuple(__class__=c) | int(__class__=c):
            return str(c)
    match ():
        case tuple(__class__=c):
            return str(c.__base__.__subclasses__()[0])
    """,
    compat=refused("__class__"),
)
hostile(
    "match-class-positional",
    "match patterns",
    "match 1:\n    case int(__builtins__): return str(__builtins__)",
    compat=Ends(("Positional match patterns",)),
)
hostile(
    "match-mapping-rest",
    "match patterns",
    """
    match {"open": 1, "a": 2}:
        case {"a": 2, **__builtins__}:
            return str(__builtins__)
    """,
    compat=refused("__builtins__"),
)
hostile(
    "match-capture-names",
    "match patterns",
    "match [1, 2]:\n    case [__loader__, *__globals__]: return str(__loader__)",
    compat=refused("__loader__"),
)
hostile(
    "match-as-name",
    "match patterns",
    "match 1:\n    case 1 as __spec__: return str(__spec__)",
    compat=refused("__spec__"),
)
hostile(
    "match-attribute-value",
    "match patterns",
    "match 1:\n    case print.__class__: return 1\n    case _: return 2",
    compat=refused("__class__"),
)

# --- frames

hostile(
    "generator-frame",
    "frames",
    """
    def g():
        yield h.gi_frame.f_back.f_back
    h = g()
    frame = next(h)
    while "open" not in frame.f_builtins:
        frame = frame.f_back
    return frame.f_builtins["open"](_items[0]["json"]["secret_file"]).read()
    """,
    compat=refused("gi_frame"),
    unchecked=Ends(("Permission denied", "object has no attribute", "NoneType")),
)
hostile(
    "traceback-frame",
    "frames",
    """
    try:
        1 / 0
    except ZeroDivisionError as error:
        frame = error.__traceback__.tb_frame
        while frame.f_back:
            frame = frame.f_back
        return frame.f_builtins["open"](_items[0]["json"]["secret_file"]).read()
    """,
    compat=refused("__traceback__"),
    unchecked=DENIED,
    relaxed=DENIED,
)
hostile(
    "coroutine-frame",
    "frames",
    """
    async def c():
        return 1
    made = c()
    code = made.cr_frame.f_builtins
    made.close()
    return code["open"](_items[0]["json"]["secret_file"]).read()
    """,
    compat=refused("cr_frame"),
    unchecked=DENIED,
)
hostile(
    "async-generator-frame",
    "frames",
    """
    async def a():
        yield 1
    return str(a().ag_frame.f_globals["__builtins__"]["open"](_items[0]["json"]["secret_file"]).read())
    """,
    compat=refused("ag_frame"),
    unchecked=DENIED,
)
hostile(
    "sys-getframe",
    "frames",
    """
    import sys
    frame = sys._getframe()
    while frame.f_back:
        frame = frame.f_back
    return frame.f_globals["__builtins__"].open(_items[0]["json"]["secret_file"]).read()
    """,
    compat=refused("f_back"),
    unchecked=Ends(("Permission denied", "has no attribute")),
    allow=LOOK,
)
hostile(
    "sys-settrace",
    "frames",
    """
    import sys
    seen = []
    def trace(*args):
        seen.append(args[0].f_locals)
        return trace
    sys.settrace(trace)
    (lambda secret: secret)(1)
    sys.settrace(None)
    return len(seen)
    """,
    compat=refused("f_locals"),
    allow=LOOK,
)
hostile(
    "frame-by-item-key",
    "frames",
    """
    def g():
        yield
    return "{0[gi_frame]}".format({"gi_frame": g()})
    """,
    compat=refused("gi_frame"),
)

# --- exception attributes

hostile(
    "attribute-error-obj",
    "exception attributes",
    """
    try:
        print.no_such_thing
    except AttributeError as error:
        return str(error.obj)
    """,
    compat=refused("obj"),
)
hostile(
    "attribute-error-obj-by-template",
    "exception attributes",
    """
    try:
        (lambda: 0).no_such_thing
    except AttributeError as error:
        return ("{0." + "ob" + "j." + "_" * 2 + "globals" + "_" * 2 + "}").format(error)
    """,
    compat=Ends(("Security violation detected",)),
)
hostile(
    "exception-context-chain",
    "exception attributes",
    """
    found = []
    try:
        try:
            1 / 0
        except ZeroDivisionError:
            raise KeyError("x")
    except KeyError as error:
        found = [repr(error.__context__), repr(error.__cause__), repr(error.args)]
    return found
    """,
    compat=Gives(["ZeroDivisionError('division by zero')", "None", "('x',)"]),
    unchecked=Gives(["ZeroDivisionError('division by zero')", "None", "('x',)"]),
)
hostile(
    "with-traceback",
    "exception attributes",
    """
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise ValueError("x").with_traceback(error.__traceback__.tb_next)
    """,
    compat=refused("__traceback__"),
    unchecked=Ends(("x",)),
)
hostile(
    "exception-poses-as-a-refusal-of-ours",
    "exception attributes",
    """
    class SecurityViolationError(Exception):
        description = "Line 1: Import of standard library module 'os' is disallowed."
    SecurityViolationError.__module__ = "trio_runner.sandbox.imports"
    raise SecurityViolationError("not the runner's word")
    """,
    compat=Ends(("__module__", "not the runner's word")),
    unchecked=Ends(("not the runner's word",)),
    allow=CLASSES,
)

# --- name mangling

hostile(
    "mangled-attribute",
    "name mangling",
    "return str(print._Hardened__function)",
    compat=Ends(("name-mangled attributes",)),
    unchecked=Ends(("has no attribute",)),
)
hostile(
    "mangled-inside-a-class",
    "name mangling",
    """
    class Hardened:
        def look(self, thing):
            return thing.__function
    return str(Hardened().look(print))
    """,
    compat=Ends(("has no attribute", "mangled")),
    unchecked=Ends(("has no attribute",)),
    allow=CLASSES,
)

# --- classes

hostile(
    "metaclass-prepare",
    "classes",
    """
    class Meta(type):
        @classmethod
        def __prepare__(cls, *args): return {"stolen": cls.__mro__}
    class A(metaclass=Meta): pass
    return str(A.stolen[-1].__subclasses__()[:1])
    """,
    compat=refused("__mro__"),
    allow=CLASSES,
)
hostile(
    "init-subclass-and-set-name",
    "classes",
    """
    seen = []
    class Base:
        def __init_subclass__(cls, **kw): seen.append(cls.__name__)
    class D:
        def __set_name__(self, owner, name): seen.append(owner.__bases__)
    class A(Base):
        d = D()
    return len(seen)
    """,
    compat=refused("__bases__"),
    unchecked=Gives(2),
    relaxed=Gives(2),
    allow=CLASSES,
)
hostile(
    "finalizer-after-the-result",
    "classes",
    """
    path = _items[0]["json"]["folder"] + "/written-by-a-finalizer"
    class Late:
        def __del__(self):
            __import__("io").open(path, "w").write("x")
    kept = [Late()]
    kept.append(kept)
    return 1
    """,
    compat=refused("io"),
    unchecked=Gives(1),
    relaxed=refused("io"),
    allow=CLASSES,
)
hostile(
    "str-subclass-as-module-name",
    "classes",
    """
    class Name(str):
        def partition(self, sep): return ("json", "", "")
        def __eq__(self, other): return True
        def __hash__(self): return hash("json")
    return str(__import__(Name("os")))
    """,
    compat=Ends(("Dynamic __import__",)),
    unchecked=Ends(("must be str",)),
    relaxed=Ends(("must be str",)),
    allow=CLASSES,
)
hostile(
    "class-called-builtins",
    "classes",
    "class __builtins__: pass\nreturn str(__builtins__)",
    compat=refused("__builtins__"),
    allow=CLASSES,
)
hostile(
    "class-by-type-call",
    "classes",
    'return str(type("T", (str,), {"format": lambda self, *a: "x"})("y").format(1))',
    compat=Ends(("name 'type' is not defined",)),
    unchecked=Gives("x"),
    relaxed=Gives("x"),
)
hostile(
    "descriptor-returns-itself",
    "classes",
    """
    class Deep:
        def __getattr__(self, name): return Deep()
        def __getitem__(self, key): return Deep()
        def __iter__(self): return self
        def __next__(self): raise StopIteration
        def __str__(self): raise SystemExit(self)
    return Deep().a.b[0]
    """,
    compat=Contained(),
    allow=CLASSES,
)

# --- unicode source

hostile(
    "nfkc-attribute",
    "unicode source",
    "return str(().__ｃｌａｓｓ__)",
    compat=refused("__class__"),
)
hostile(
    "nfkc-name",
    "unicode source",
    "return str(__ｂｕｉｌｔｉｎｓ__)",
    compat=refused("__builtins__"),
)
hostile(
    "encoding-cookie",
    "unicode source",
    "# -*- coding: utf-7 -*-\nx = 1  # +AAo-return ().+AF8AXw-class+AF8AXw-\nreturn x",
    compat=Gives(1),
    unchecked=Gives(1),
    relaxed=Gives(1),
)
hostile(
    "nul-byte",
    "unicode source",
    "return 1\x00\nreturn ().__class__",
    compat=Ends(("null byte",)),
    unchecked=Ends(("null byte",)),
    relaxed=Ends(("null byte",)),
)
hostile(
    "right-to-left-comment",
    "unicode source",
    "x = 'a'  # \u202e\u2066 __builtins__ \u2069\nreturn ().__class__ and x",
    compat=refused("__class__"),
)
hostile(
    "homoglyph-names",
    "unicode source",
    "__сlass__ = 7  # the first letter is Cyrillic\nreturn __сlass__",
    compat=Gives(7),
    unchecked=Gives(7),
    relaxed=Gives(7),
)

# --- scope tricks

hostile(
    "global-builtins",
    "scope tricks",
    "global __builtins__\n__builtins__ = {}\nreturn 1",
    compat=refused("__builtins__"),
)
hostile(
    "comprehension-scope",
    "scope tricks",
    "return [str(__builtins__) for __builtins__ in [1]]",
    compat=refused("__builtins__"),
)
hostile(
    "walrus-and-annotation",
    "scope tricks",
    "x: (__loader__ := 1) = 2\nreturn x",
    compat=refused("__loader__"),
)
hostile(
    "parameter-and-except-names",
    "scope tricks",
    """
    def f(__globals__): return __globals__
    try:
        1 / 0
    except ZeroDivisionError as __spec__:
        return str(f(1))
    """,
    compat=refused("__globals__"),
)
hostile(
    "star-import",
    "scope tricks",
    "from os import *\nreturn listdir('/')",
    compat=refused("os"),
    unchecked=Ends(("only allowed at module level",)),
)
hostile(
    "delete-what-guards",
    "scope tricks",
    """
    def outer():
        global __n8n_internal_safe_format__
        del __n8n_internal_safe_format__
    outer()
    return "{0}".format(1)
    """,
    compat=refused("__n8n_internal_safe_format__"),
)
hostile(
    "import-alias-is-a-blocked-name",
    "scope tricks",
    "import json as __builtins__\nreturn str(__builtins__)",
    compat=refused("__builtins__"),
    allow=SAFE,
)

# --- injected objects

hostile(
    "format-guard-called-by-name",
    "injected objects",
    'return __n8n_internal_safe_format__("format", "{0.__class__}", 1)',
    compat=refused("__n8n_internal_safe_format__"),
    unchecked=Ends(("is not defined",)),
)
hostile(
    "print-looked-into",
    "injected objects",
    """
    found = []
    for read in (lambda: print._function, lambda: print.cell_contents, lambda: print.im_func):
        try:
            found.append(str(read()))
        except AttributeError as error:
            found.append(str(error)[:30])
    return found
    """,
    compat=Gives(["'builtin_function_or_method' o"] * 3),
    unchecked=Gives(["'builtin_function_or_method' o"] * 3),
    relaxed=Gives(["'builtin_function_or_method' o"] * 3),
)
hostile(
    "print-changed",
    "injected objects",
    """
    try:
        print.extra = 1
    except AttributeError:
        return "refused"
    """,
    compat=Gives("refused"),
    unchecked=Gives("refused"),
    relaxed=Gives("refused"),
)
hostile(
    "print-to-a-file-like-thing",
    "injected objects",
    """
    import sys
    taken = []
    class Sink:
        def write(self, text): taken.append(sys._getframe(1).f_code.co_filename)
    print("x", file=Sink())
    return [name[-12:] for name in taken]
    """,
    compat=refused("f_code"),
    allow=CLASSES,
)
hostile(
    "recursive-call-of-the-wrapper",
    "injected objects",
    "return _user_function(_items, _query)",
    compat=Ends(("recursion", "Recursion")),
    unchecked=Ends(("recursion", "Recursion")),
    relaxed=Ends(("recursion", "Recursion")),
)

# --- the result encoder

hostile(
    "default-hook-reads-a-file",
    "result encoder",
    """
    path = _items[0]["json"]["secret_file"]
    class Late:
        def __str__(self): return __import__("io").open(path).read()
    return {"x": Late()}
    """,
    compat=refused("io"),
    unchecked=DENIED,
    relaxed=refused("io"),
    allow=CLASSES,
)
hostile(
    "cycle",
    "result encoder",
    'a = []\na.append({"a": a})\nreturn a',
    compat=Ends(("Circular reference",)),
    unchecked=Ends(("Circular reference",)),
    relaxed=Ends(("Circular reference",)),
)
hostile(
    "lone-surrogate",
    "result encoder",
    "return {chr(0xD800): chr(0xDFFF)}",
    compat=Ends(("surrogates not allowed", "Surrogates")),
    unchecked=Ends(("surrogates not allowed", "Surrogates")),
    relaxed=Ends(("surrogates not allowed", "Surrogates")),
)
hostile(
    "not-a-number",
    "result encoder",
    'return [float("nan"), float("inf"), -float("inf")]',
    compat=Gives([None, None, None]),
    unchecked=Gives([None, None, None]),
    relaxed=Gives([None, None, None]),
)
hostile(
    "dict-that-grows-while-it-is-read",
    "result encoder",
    """
    class Grows(dict):
        def items(self):
            n = 0
            while True:
                n += 1
                if n > 10**4: raise ValueError("enough")
                yield str(n), n
    return Grows()
    """,
    compat=Contained(),
    allow=CLASSES,
)
hostile(
    "deeply-nested",
    "result encoder",
    "value = []\nfor _ in range(50_000):\n    value = [value]\nreturn value",
    compat=Contained(),
    relaxed=Contained(),
)
hostile(
    "key-that-is-everything",
    "result encoder",
    """
    class Key(str):
        def __hash__(self): return 0
        def __eq__(self, other): return True
    return {Key("a"): 1, Key("b"): 2}
    """,
    compat=Gives({"a": 2}),
    unchecked=Gives({"a": 2}),
    relaxed=Gives({"a": 2}),
    allow=CLASSES,
)

# --- wrapper break-outs

hostile(
    "dedent-after-return",
    "wrapper break-outs",
    "return 1\n\n\x0cimport os\nos.listdir('/')",
    compat=refused("os"),
    unchecked=Gives(1),
)
hostile(
    "closing-bracket",
    "wrapper break-outs",
    "return (1)\n)\nimport os",
    compat=Ends(("unmatched ')'",)),
    unchecked=Ends(("unmatched ')'",)),
)
hostile(
    "line-joined-at-the-end",
    "wrapper break-outs",
    "x = 1\nreturn x \\",
    compat=Ends(("EOF", "unexpected end", "invalid")),
    unchecked=Ends(("EOF", "unexpected end", "invalid")),
)
hostile(
    "unfinished-string",
    "wrapper break-outs",
    'return """\n\n__n8n_internal_user_output__ = 7',
    compat=Ends(("unterminated",)),
    unchecked=Ends(("unterminated",)),
)
hostile(
    "redefined-wrapper",
    "wrapper break-outs",
    """
    global _user_function
    def _user_function(*args): return "second"
    return "first"
    """,
    compat=Gives("first"),
    unchecked=Gives("first"),
    relaxed=Gives("first"),
)
hostile(
    "indented-program",
    "wrapper break-outs",
    "    import os\n    return 1",
    compat=Ends(("unexpected indent",)),
    unchecked=Ends(("unexpected indent",)),
)
hostile(
    "decorator-of-nothing",
    "wrapper break-outs",
    "return 1\n@print",
    compat=Ends(("invalid syntax", "unexpected EOF", "expected")),
    unchecked=Ends(("invalid syntax", "unexpected EOF", "expected")),
)
hostile(
    "future-import-in-the-middle",
    "wrapper break-outs",
    "x = 1\nfrom __future__ import annotations\nreturn x",
    compat=Contained(),
    allow=SAFE,
)

# --- resources that cost nothing to refuse

hostile(
    "list-of-a-billion",
    "resources",
    "return len([0] * 10**10)",
    compat=Ends(("MemoryError",)),
    unchecked=Ends(("MemoryError",)),
    relaxed=Ends(("MemoryError",)),
)
hostile(
    "endless-recursion",
    "resources",
    "def f(n): return f(n + 1)\nreturn f(0)",
    compat=Ends(("recursion",)),
    unchecked=Ends(("recursion",)),
    relaxed=Ends(("recursion",)),
)
hostile(
    "print-flood",
    "resources",
    'for _ in range(20_000):\n    print("x" * 100)\nreturn 1',
    compat=Gives(1),
    unchecked=Gives(1),
    relaxed=Gives(1),
)
hostile(
    "giant-error-text",
    "resources",
    'raise ValueError("x" * 20_000_000)',
    compat=Ends(("xxx",)),
    unchecked=Ends(("xxx",)),
    relaxed=Ends(("xxx",)),
)
hostile(
    "huge-number-as-text",
    "resources",
    "return str(10 ** 100_000)",
    compat=Ends(("Exceeds the limit",)),
    unchecked=Ends(("Exceeds the limit",)),
    relaxed=Ends(("Exceeds the limit",)),
)
hostile(
    "nested-brackets",
    "resources",
    "return " + "(" * 5000 + ")" * 5000,
    compat=Ends(("too many nested parentheses", "too deeply", "could not be")),
    unchecked=Ends(("too many nested parentheses", "too deeply", "could not be")),
)
hostile(
    "giant-source",
    "resources",
    "x = 0\n" + "x = x + 1\n" * 5_000 + "return x",
    compat=Gives(5_000),
    unchecked=Gives(5_000),
    relaxed=Gives(5_000),
)
hostile(
    "exit-without-a-result",
    "resources",
    "raise SystemExit(7)",
    compat=Ends(("Process exited with code 7",)),
    unchecked=Ends(("Process exited with code 7",)),
    relaxed=Ends(("Process exited with code 7",)),
)
