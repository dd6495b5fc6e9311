"""Extracting a Python program from a completion, and the name of the tested function from asserts.

Pure functions on text; nothing is executed here. Those that read a completion never raise and take bounded time,
whatever the text. `cut_program` serves the purpose of EvalPlus's `sanitize` (evalplus 26d6d00, 2025-10-02), with `ast`
and `symtable` instead of tree-sitter, and with the longest prefix that parses instead of the longest span, since a
completion after an open fence begins with code.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_FENCE = re.compile(r"```(?:(python3?|py)\b[ \t]*\n?)?", re.IGNORECASE)
_NOT_PYTHON = re.compile("[\x00\ud800-\udfff]")  # no Python source can hold these
_MAX_CHARS = 30_000  # longest part of a text that is read; completions have a few thousand
_PARSE_BUDGET = 150_000  # characters parsed per text: a few seconds for an adversarial text
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def unix_newlines(text: str) -> str:
    """Converts the line ends of Windows and old Macintosh to line feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def normalized_source(code: str) -> str:
    """Converts line ends to line feeds, and tabs in the indentation to spaces with tab stops of four."""
    lines = unix_newlines(code).split("\n")
    bodies = [line.lstrip(" \t") for line in lines]
    return "\n".join(
        line[: len(line) - len(body)].expandtabs(4) + body for line, body in zip(lines, bodies, strict=True)
    )


def fenced_code(text: str) -> str:
    """Returns the first fenced block that is not blank, closed or not, or the whole text if it has no fence.

    If the response prefix opened the fence, `text` must begin with it. A fence marked as Python always opens a block,
    since a model may open the fence a second time.
    """
    start = None
    for fence in _FENCE.finditer(text):
        if start is None or fence[1]:
            start = fence.end()
        elif (block := text[start : fence.start()]).strip():
            return block
        else:
            start = None
    if start is not None:
        return text[start:]
    return "" if "```" in text else text


def cut_program(text: str, entry_point: str) -> str:
    """Returns the longest prefix of whole lines that parses, without statements that the entry point does not need.

    Imports, the entry point and the definitions it reaches are kept; calls, prints and asserts at the top level are
    dropped. The text is returned unchanged if no prefix parses or the prefix does not define the entry point; running
    it then gives the reason.
    """
    source = unix_newlines(text)
    bad = _NOT_PYTHON.search(source)
    end = min(len(source), _MAX_CHARS) if bad is None else min(bad.start(), _MAX_CHARS)
    whole = end == len(source)
    lines = source[:end].split("\n")
    prefix = _longest_prefix(lines if whole else lines[:-1])
    if prefix is None:
        return source
    tree, lines = prefix
    try:
        statements = [_statement(nodes, lines) for nodes in _by_lines(tree.body)]
    except _UNPARSABLE:
        return "\n".join(lines)
    kept = _reachable(statements, entry_point)
    if not any(entry_point in statement.binds for statement in kept):
        return source
    return "".join(f"{statement.source}\n" for statement in kept)


def defines(code: str, name: str) -> bool:
    """Returns whether `code` binds `name` at the top level, by a definition, an assignment or an import."""
    try:
        return name in _bound(symtable.symtable(code, "<program>", "exec"))
    except _UNPARSABLE:
        return False


def entry_point_of(test_list: Sequence[str]) -> str:
    """Returns the name of the function that asserts test: the first one called that is no wrapper like `set` or `len`.

    The name of a built-in is returned only if no other function is called (MBPP has solutions named `sum`).

    Raises:
        ValueError: an assert does not parse, or none calls anything by name.
    """
    wrappers = []
    for test in test_list:
        try:
            tree = ast.parse(unix_newlines(test).strip())
        except _UNPARSABLE as error:
            raise ValueError(f"The test {test[:120]!r} is not Python: {error}. Correct the row.") from error
        nodes: list[ast.AST] = [tree]
        while nodes:  # in the order of the source, a call before those in its arguments
            node = nodes.pop()
            nodes.extend(reversed(list(ast.iter_child_nodes(node))))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id != "isclose" and not hasattr(builtins, node.func.id):
                    return node.func.id
                wrappers.append(node.func.id)
    if not wrappers:
        raise ValueError(f"No function is called by name in the tests {str(list(test_list))[:120]}. Correct the row.")
    return wrappers[0]


def _longest_prefix(lines: list[str]) -> tuple[ast.Module, list[str]] | None:
    """Returns the tree and the lines of the longest prefix that parses, or None if it is blank or beyond the budget."""
    budget = _PARSE_BUDGET
    while lines and budget > 0:
        code = "\n".join(lines)
        budget -= len(code) + 1
        try:
            tree = ast.parse(code)
        except SyntaxError as error:
            # No prefix that holds the line of an error parses, so the next candidate ends before it.
            line = error.lineno if error.lineno is not None else len(lines) // 2 + 1
            lines = lines[: min(max(line, 1), len(lines)) - 1]
        except _UNPARSABLE:
            lines = lines[: len(lines) // 2]  # nested too deeply; the error has no line
        else:
            return (tree, lines) if tree.body else None
    return None


@dataclass(frozen=True)
class _Statement:
    """Top-level statements that share lines, the names that they bind and the global names that they use."""

    source: str
    is_import: bool
    binds: frozenset[str]
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
        is_import=any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes),
        binds=frozenset(_bound(top) | {name for node in nodes for name in _changed(node)}),
        uses=frozenset(_used(top)),
    )


def _bound(top: symtable.SymbolTable) -> set[str]:
    return {one.get_name() for one in top.get_symbols() if one.is_assigned() or one.is_imported()}


def _changed(node: ast.stmt) -> Iterator[str]:
    """Yields the names whose items or attributes a statement sets, as in `sieve[0] = False`."""
    if isinstance(node, _DEFINITIONS):
        return
    for part in ast.walk(node):
        if isinstance(part, (ast.Subscript, ast.Attribute)) and not isinstance(part.ctx, ast.Load):
            base: ast.expr = part
            while isinstance(base, (ast.Subscript, ast.Attribute)):
                base = base.value
            if isinstance(base, ast.Name):
                yield base.id


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
    binding = defaultdict(list)
    for index, statement in enumerate(statements):
        for name in statement.binds:
            binding[name].append(index)
    kept = {index for index, statement in enumerate(statements) if statement.is_import}
    names = [entry_point]
    while names:
        new = [index for index in binding.pop(names.pop(), ()) if index not in kept]
        kept.update(new)
        names.extend(name for index in new for name in statements[index].uses)
    return [statements[index] for index in sorted(kept)]
