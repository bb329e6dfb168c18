"""From source to a code object: the user's program as the body of a function, wrapped through the syntax tree.

No text is indented, so multi-line strings keep their bytes and line numbers are the user's own. Owns the wrapper, the
file names in tracebacks and the words for code that does not compile. Must not run anything.
"""

from __future__ import annotations

import ast
import marshal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Final

from trio_runner.sandbox import analysis, coroutines, formatguard, hints, mentions
from trio_runner.sandbox.frames import Failure, Verdict
from trio_runner.sandbox.policy import Policy

ALL_ITEMS_FILE: Final = "<all_items_task_execution>"
EACH_ITEM_FILE: Final = "<per_item_task_execution>"
USER_FILES: Final = frozenset({ALL_ITEMS_FILE, EACH_ITEM_FILE})
USER_FUNCTION: Final = "_user_function"

_COMPILE_DEPTH: Final = 6000
_TOO_COMPLEX: Final = "An expression or a block is too long or too deep: split it up. [TR208]"

_PARAMETERS: Final = {False: ("_items", "_query"), True: ("_item",)}


def examine(source: str, each_item: bool, policy: Policy) -> Verdict:
    """Analyses and compiles; never raises for anything that the source holds."""
    try:
        tree = analysis.parse(source)
    except SyntaxError as error:
        return Verdict(failure=_syntax_failure(error, source, checked=policy.source_checks, each_item=each_item))
    violations = analysis.analyse(tree, policy)
    if violations:
        return Verdict(
            failure=Failure(
                message="Security violations detected",
                description=analysis.describe(violations) + hints.for_refusals(v.text for v in violations),
                line=violations[0].line,
                before_start=True,
                kind="violation",
            )
        )
    try:
        code = compile_tree(tree, each_item=each_item, guard_formats=policy.source_checks and not policy.relaxed)
        found = mentions.find(code, tree, source)
        loop = coroutines.loop_of(source, tree)
        return Verdict(code=marshal.dumps(code), uses=found.uses, nodes=found.nodes, loop=loop)
    except EmptyProgramError as error:
        return Verdict(
            failure=Failure(
                message=str(error),
                description="The code is empty. Return a list of items, like: return [{'json': {'a': 1}}] [TR207]",
                kind="syntax",
            )
        )
    except SyntaxError as error:
        description = _syntax_description(error, source)
        return Verdict(failure=Failure(message=str(error), description=description, line=error.lineno, kind="syntax"))
    except (RecursionError, ValueError) as error:
        message = f"The code could not be compiled: {error}"
        return Verdict(failure=Failure(message=message, description=_TOO_COMPLEX, kind="syntax"))


def user_function(module: CodeType) -> CodeType:
    """The body of the user's function: running the module would do nothing but make a function of it."""
    return next(const for const in module.co_consts if isinstance(const, CodeType) and const.co_name == USER_FUNCTION)


class EmptyProgramError(SyntaxError):
    """There is nothing to run; the text is the reference's, which n8n's users may know."""

    def __init__(self, file: str) -> None:
        super().__init__(f"expected an indented block after function definition on line 1 ({file}, line 4)")


def compile_tree(tree: ast.Module, *, each_item: bool, guard_formats: bool) -> CodeType:
    """A module whose execution defines the user's function. Raises SyntaxError as ``compile`` does."""
    file = EACH_ITEM_FILE if each_item else ALL_ITEMS_FILE
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    body = [node for node in tree.body if node not in futures]
    if not body:
        raise EmptyProgramError(file)
    parameters = _PARAMETERS[each_item]
    if _declares_global(body, parameters):
        parameters = ()
    definition = ast.AsyncFunctionDef if coroutines.awaits(body) else ast.FunctionDef
    function = definition(
        name=USER_FUNCTION,
        args=ast.arguments(
            posonlyargs=[], args=[ast.arg(arg=name) for name in parameters], kwonlyargs=[], kw_defaults=[], defaults=[]
        ),
        body=body,
        decorator_list=[],
    )
    if hasattr(function, "type_params"):
        function.type_params = []
    module = ast.Module(body=[*futures, function], type_ignores=[])
    # only the wrapper lacks positions; a walk over the user's tree would recurse as deep as the user likes
    for node in (function, *function.args.args):
        ast.copy_location(node, body[0])
    if guard_formats:
        module = formatguard.guard_format_calls(module)
    with _deep_recursion():
        return compile(module, file, "exec", dont_inherit=True)


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Compiling a tree recurses where compiling a text does not: a long sum would fail only because it is a tree."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _COMPILE_DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _declares_global(body: list[ast.stmt], names: tuple[str, ...]) -> bool:
    """Whether the program says ``global _items``: a parameter of that name would then be a syntax error.

    Otherwise the inputs are parameters as well as globals, so that ``_items = [...]`` does not turn every earlier read
    into an UnboundLocalError.
    """
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Global):
            if not set(names).isdisjoint(node.names):
                return True
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))
    return False


def _syntax_failure(error: SyntaxError, source: str, *, checked: bool, each_item: bool) -> Failure:
    """Validation's syntax errors carry `<unknown>` and end the task; without validation the program failed to run."""
    description = _syntax_description(error, source)
    if not checked:
        error.filename = EACH_ITEM_FILE if each_item else ALL_ITEMS_FILE
    return Failure(message=str(error), description=description, line=error.lineno, before_start=checked, kind="syntax")


def _syntax_description(error: SyntaxError, source: str) -> str:
    from trio_runner.sandbox import mistakes  # which needs this module for the names of files

    return mistakes.for_syntax(error, source)
