"""Reading a Python program out of a model's text, and a test's entry point out of its asserts.

Pure functions on text; nothing is executed here. What reads a model's text never raises and takes bounded time,
whatever the text. `cut_program` does what EvalPlus's `sanitize` (evalplus 26d6d00, 2025-10-02) is for, with `ast`
and scopes in place of tree-sitter and names: a longest prefix instead of a longest span, since an answer behind an
open fence starts with code. `legacy_sanitize` follows that project's older sanitizer, defects included.
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
_MAX_CHARS = 30_000  # of a text that is looked at; answers are a few thousand long
_PARSE_BUDGET = 150_000  # characters parsed per text; at most a few seconds, for a text made to be slow
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def unix_newlines(text: str) -> str:
    """The text with every line end, Windows' and old Macintosh's too, as one line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def normalized_source(code: str) -> str:
    """Reference code with line feeds only, and indented with blanks: a tab reaches the next multiple of four."""
    lines = unix_newlines(code).split("\n")
    bodies = [line.lstrip(" \t") for line in lines]
    return "\n".join(
        line[: len(line) - len(body)].expandtabs(4) + body for line, body in zip(lines, bodies, strict=True)
    )


def fenced_code(text: str) -> str:
    """The first fenced block with anything in it, closed or not; the whole text if it has no fence.

    Where a prefill opened the fence, give it with the text. A fence marked as Python always opens a block, so a model
    that opens the fence a second time is understood.
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
    """The longest prefix of whole lines that parses, without what the entry point does not need.

    Imports, the entry point and the definitions it reaches stay; calls, prints and asserts at the top level go. A text
    of which no prefix parses, or whose prefix does not define the entry point, stays as it is: running it says why.
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
    """Whether running `code` binds `name` at its top level, by a definition, an assignment or an import."""
    try:
        return name in _bound(symtable.symtable(code, "<program>", "exec"))
    except _UNPARSABLE:
        return False


def entry_point_of(test_list: Sequence[str]) -> str:
    """The function that asserts test: the first call of a plain name that is not a wrapper such as `set` or `len`.

    A built-in's name counts only if nothing else is called (MBPP has solutions named `sum`).

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


def legacy_sanitize(text: str, entry_point: str) -> str:
    """What the sanitizer of the paper's EvalPlus leaves of a program (`evalplus/lecacy_sanitize.py`, same rules).

    A definition of the entry point without the literal "    return " before the next `def` is dropped. Of the rest,
    lines at the margin other than `def`, `import` and `from` go, and everything from an `if`, a `print` or a
    docstring there on; other functions that do not parse go too.
    """
    head, *pieces = re.split(rf"def {re.escape(entry_point)}\s*\(", "\n" + text.strip())
    opening = f"def {entry_point}("
    bodies = [piece for piece in pieces if "    return " in piece.split("\ndef", 1)[0]]
    code = head + _legacy_lines(opening + opening.join(bodies)) if bodies else head
    first, *functions = code.split("\ndef ")
    own = (f"{entry_point} ", f"{entry_point}(")
    kept = [one for one in functions if one.strip().startswith(own) or _parses(f"\ndef {one}")]
    return "\ndef ".join([first, *kept]).strip()


def _legacy_lines(code: str) -> str:
    kept = []
    for line in code.splitlines():
        if line.startswith(('"""', "if", "print")):
            break
        body = line.lstrip()
        if body and body == line and not line.startswith(("def ", "import ", "from ")):
            continue
        kept.append(f" {line}" if len(line) - len(body) == 3 else line)
    return "\n".join(kept)


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except _UNPARSABLE:
        return False
    return True


def _longest_prefix(lines: list[str]) -> tuple[ast.Module, list[str]] | None:
    """The tree and the lines of the longest prefix that parses and is not blank; None within the budget."""
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
            lines = lines[: len(lines) // 2]  # nested too deeply, and nobody says where
        else:
            return (tree, lines) if tree.body else None
    return None


@dataclass(frozen=True)
class _Statement:
    """Statements at the top level that share lines, the names they bind and the global names they use."""

    source: str
    is_import: bool
    binds: frozenset[str]
    uses: frozenset[str]


def _by_lines(body: Sequence[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """Statements in groups that do not share a line with each other (`a = 1; b = 2` is one group)."""
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
    """Names whose items or attributes a statement sets, as in `sieve[0] = False`."""
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
    """The imports, and what the entry point needs, in order."""
    binding = defaultdict(list)
    for number, statement in enumerate(statements):
        for name in statement.binds:
            binding[name].append(number)
    kept = {number for number, statement in enumerate(statements) if statement.is_import}
    names = [entry_point]
    while names:
        new = [number for number in binding.pop(names.pop(), ()) if number not in kept]
        kept.update(new)
        names.extend(name for number in new for name in statements[number].uses)
    return [statements[number] for number in sorted(kept)]
