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
from collections.abc import Sequence

from t2.grading.sandbox.needed import bound_names, needed_source

_FENCE = re.compile(r"```(?:(python3?|py)\b[ \t]*\n?)?", re.IGNORECASE)
_NOT_PYTHON = re.compile("[\x00\ud800-\udfff]")  # no Python source can hold these
_MAX_CHARS = 30_000  # longest part of a text that is read; completions have a few thousand
_PARSE_BUDGET = 150_000  # characters parsed per text: a few seconds for an adversarial text
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

    Imports, the entry point and the definitions it reaches are kept, and what changes their values (unlike in
    `sanitize` by calls, too: `primes.append(7)`); other calls, prints and asserts at the top level are dropped.
    The text is returned unchanged if no prefix parses or the prefix does not define the entry point; running it then
    gives the reason.
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
        needed = needed_source(tree.body, lines, entry_point)
    except _UNPARSABLE:
        return "\n".join(lines)
    return source if needed is None else needed


def defines(code: str, name: str) -> bool:
    """Returns whether `code` binds `name` at the top level, by a definition, an assignment or an import."""
    try:
        return name in bound_names(code)
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
