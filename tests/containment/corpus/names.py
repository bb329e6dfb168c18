"""Attacks through what a program is handed with n8n's names, and programs that only use them."""

from __future__ import annotations

from tests.containment.corpus import DENIED, Ends, harmless, hostile, refused

SECRET = '_items[0]["json"]["secret_file"]'

# what is handed over are values, hardened functions and facades: there is nothing behind them

for _name, _road in {
    "helper-globals": "_helpers.http_request.__globals__",
    "helper-closure": "_helpers.get_binary_data.__closure__",
    "node-function-globals": "_.__globals__",
    "static-data-self": "_getWorkflowStaticData.__self__",
    "facade-class": "_input.__class__",
    "facade-dict": "_execution.customData.__dict__",
    "reference-class": "_('A').__class__",
}.items():
    _attribute = _road.rpartition(".")[2]
    hostile(
        f"names-{_name}",
        "injected objects",
        f"return str({_road}) + open({SECRET}).read()",
        compat=refused(_attribute),
        relaxed=Ends((f"'{_attribute}'",)),
        unchecked=Ends((f"'{_attribute}'",)),
    )

hostile(
    "names-slot-descriptors",
    "injected objects",
    f"""
    kind = type(_input)
    for name in ("_look_up", "_name"):
        print(kind.__dict__[name].__get__(_input))
    return open({SECRET}).read()
    """,
    compat=refused("__dict__"),
    relaxed=Ends(("'_look_up'",)),
    unchecked=Ends(("'_look_up'",)),
)

# classes of ours lead to our modules, and those to the language; the kernel is what holds

hostile(
    "names-method-of-an-item",
    "injected objects",
    f'return _json.to_py.__func__.__globals__["__builtins__"]["open"]({SECRET}).read()',
    compat=refused("__func__"),
    relaxed=DENIED,
    unchecked=DENIED,
)
hostile(
    "names-error-class",
    "injected objects",
    f'return _helpers.HelperError.__init__.__globals__["__builtins__"]["open"]({SECRET}).read()',
    compat=refused("__globals__"),
    relaxed=DENIED,
    unchecked=DENIED,
)
hostile(
    "names-format-template",
    "injected objects",
    f'return "{{0.to_py.__func__.__globals__}}".format(_json) + open({SECRET}).read()',
    compat=refused("__func__"),
    relaxed=Ends(("'open'",)),
    unchecked=DENIED,
)

harmless(
    "names-that-ask-for-nothing",
    "everyday",
    """
    return [_ifEmpty("", _json.n), _jmespath(_input.all(), "[].json.n"), [item.json.name for item in _input.all()],
            _input.first().json.n, _itemIndex, _binary]
    """,
    [3, [3, 1], ["Zoë", "obj"], 3, 0, {}],
)
harmless(
    "names-of-its-own",
    "everyday",
    """
    _vars, _now = {"a": 1}, "now"
    def _(text):
        return text.upper()
    return [_vars, _now, _("x"), [_json for _json in range(2)]]
    """,
    [{"a": 1}, "now", "X", [0, 1]],
)
