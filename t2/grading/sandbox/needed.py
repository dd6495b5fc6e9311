"""Which top-level statements of a program its entry point needs: definitions, and what makes and changes their values.

Names decide, not values: what is needed by one path only is needed. Nothing is executed. Not done here: which part of a
text is a program (`t2.grading.sandbox.programs`).
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_CHANGE_NOTHING = frozenset(dir(builtins)) - {"setattr", "delattr", "next"}  # functions, of their arguments


def needed_source(body: Sequence[ast.stmt], lines: Sequence[str], entry_point: str) -> str | None:
    """The imports and the statements that the entry point needs, in order; None where none of them binds its name.

    Args:
        body: the top-level statements.
        lines: the source that they were parsed from.
        entry_point: the name of a function.

    Raises:
        SyntaxError: a group of statements that share lines does not compile; likewise the others of a compilation.
    """
    kept = _reachable([_statement(nodes, lines) for nodes in _by_lines(body)], entry_point)
    if not any(entry_point in statement.binds for statement in kept):
        return None
    return "".join(f"{statement.source}\n" for statement in kept)


def bound_names(code: str) -> set[str]:
    """The names that `code` binds at its top level, by a definition, an assignment or an import."""
    return _bound(symtable.symtable(code, "<program>", "exec"))


@dataclass(frozen=True)
class _Statement:
    """Top-level statements that share lines, the names that they bind and the global names that they use."""

    source: str
    is_kept: bool  # an import, or a call that sets the limit of recursion
    binds: frozenset[str]
    changes: frozenset[str]  # by calls
    fixes: frozenset[str]  # functions and modules, which no call changes
    uses: frozenset[str]


def _by_lines(body: Sequence[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """Groups statements that share a line (`a = 1; b = 2` is one group)."""
    group: list[ast.stmt] = []
    for node in body:
        if group and _first_line(node) > (group[-1].end_lineno or 0):
            yield group
            group = []
        group.append(node)
    if group:
        yield group


def _first_line(node: ast.stmt) -> int:
    if isinstance(node, _DEFINITIONS) and node.decorator_list:
        return node.decorator_list[0].lineno
    return node.lineno


def _statement(nodes: Sequence[ast.stmt], lines: Sequence[str]) -> _Statement:
    source = "\n".join(lines[_first_line(nodes[0]) - 1 : nodes[-1].end_lineno])
    top = symtable.symtable(source, "<program>", "exec")
    return _Statement(
        source,
        is_kept=any(isinstance(node, (ast.Import, ast.ImportFrom)) or _is_recursion_limit(node) for node in nodes),
        binds=frozenset(_bound(top) | {name for node in nodes for name in _changed(node)}),
        changes=frozenset(name for node in nodes for name in _handed(node)),
        fixes=frozenset({node.name for node in nodes if isinstance(node, _FUNCTIONS)} | _imported(top)),
        uses=frozenset(_used(top)),
    )


def _bound(top: symtable.SymbolTable) -> set[str]:
    return {one.get_name() for one in top.get_symbols() if one.is_assigned() or one.is_imported()}


def _imported(top: symtable.SymbolTable) -> set[str]:
    return {one.get_name() for one in top.get_symbols() if one.is_imported()}


def _changed(node: ast.stmt) -> Iterator[str]:
    """Yields the names whose items or attributes a statement sets, as in `sieve[0] = False`."""
    for part in _parts(node):
        if isinstance(part, (ast.Subscript, ast.Attribute)) and not isinstance(part.ctx, ast.Load):
            yield from _base(part)


def _handed(node: ast.stmt) -> Iterator[str]:
    """Yields the names of values that a call can change: `primes.append(7)`, `fill(table)`; not `print(table)`."""
    for part in _parts(node):
        if isinstance(part, ast.Call):
            if isinstance(part.func, ast.Attribute):
                yield from _base(part.func)
            if not (isinstance(part.func, ast.Name) and part.func.id in _CHANGE_NOTHING):
                yield from chain.from_iterable(map(_base, part.args))


def _parts(node: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement that runs at once; none of a definition."""
    return iter(()) if isinstance(node, _DEFINITIONS) else ast.walk(node)


def _base(node: ast.expr) -> Iterator[str]:
    """Yields `a` of `a`, `a.b` and `a[0].b`."""
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def _is_recursion_limit(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func).endswith("setrecursionlimit")


def _used(top: symtable.SymbolTable) -> Iterator[str]:
    tables = [top]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                yield symbol.get_name()


def _reachable(statements: Sequence[_Statement], entry_point: str) -> list[_Statement]:
    """Returns the imports and the statements that the entry point needs, in order."""
    fixed = {entry_point}.union(*(statement.fixes for statement in statements))
    binding = defaultdict(list)
    for index, statement in enumerate(statements):
        for name in statement.binds | (statement.changes - fixed):
            binding[name].append(index)
    kept = {index for index, statement in enumerate(statements) if statement.is_kept}
    names = [entry_point]
    while names:
        new = [index for index in binding.pop(names.pop(), ()) if index not in kept]
        kept.update(new)
        names.extend(name for index in new for name in statements[index].uses)
    return [statements[index] for index in sorted(kept)]
