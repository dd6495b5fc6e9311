r"""The outer structure of an answer: tuple, interval, set, list, union, matrix; what is inside is not read.

A tuple, an interval and a matrix have an order; a set, a list of solutions ("1, 2", "1 or 2", "\pm 2") and a union have
none. "(1,2)" is a tuple or an open interval and never equal to the list "1, 2". A comma before three digits separates
thousands where no bracket stands around the number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GROUPED = re.compile(r"(?<![0-9.])[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
_MATRIX = re.compile(r"\\begin\s*\{([pbBvV]?matrix|array)\}(?:\s*\{[lcr|]*\})?(.*)\\end\s*\{\1\}", re.DOTALL)
_OPEN = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle", "{": "}"}
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_SEPARATOR = re.compile(
    r"\\(?:text|mbox|mathrm)\s*\{\s*,?\s*(?:or|and)\s*\}|(?<![A-Za-z\\]),?\s*\b(?:or|and)\b(?![A-Za-z])"
)
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_BRACES = {"{": 1, "}": -1}
_BRACKETS = {"(": 1, "[": 1, r"\{": 1, ")": -1, "]": -1, r"\}": -1, r"\langle": 1, r"\rangle": -1} | _BRACES


@dataclass(frozen=True)
class Structure:
    """Brackets, such as "()", "[)", "{}", "list", "union" or "matrix 2 x 1", and the texts of the members."""

    kind: str
    members: tuple[str, ...]

    @property
    def has_order(self) -> bool:
        """Whether swapped members make another answer."""
        return self.kind not in ("list", "union")


def structure(text: str) -> Structure | None:
    """Returns the outer structure of a text, None for a single expression; time is linear in the length."""
    text = text.strip()
    if matrix := _matrix(text):
        return matrix
    for sign in (r"\cup", r"\cap"):
        if len(parts := _split(text, sign)) > 1:
            return Structure("union" if sign == r"\cup" else "intersection", parts)
    if (inside := _enclosed(text)) is not None:
        kind, content = inside
        members = _split(_ungrouped(content) if ", " in content else content, ",")
        if kind == "{}" and (text.startswith("\\") or len(members) > 1):
            return Structure("list", members if content.strip() else ())
        return Structure(kind, members) if len(members) > 1 else None
    members = _split(_ungrouped(_SEPARATOR.sub(",", text)), ",")
    members = tuple(member for member in members if member)
    if len(members) == 1 and len(_PLUS_MINUS.findall(text)) == 1:
        members = tuple(_PLUS_MINUS.sub(sign, members[0]) for sign in "+-")
    return Structure("list", members) if len(members) > 1 else None


def without_brackets(text: str) -> str:
    """Returns what stands in the round brackets around a whole text, else the text."""
    inside = _enclosed(text.strip())
    return inside[1].strip() if inside and inside[0] == "()" else text


def _matrix(text: str) -> Structure | None:
    match = _MATRIX.fullmatch(text)
    if match is None or match[1] in ("vmatrix", "Vmatrix") or r"\begin" in match[2]:
        return None  # a determinant is a number
    rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", match[2]) if row.strip()]
    columns = {len(row) for row in rows}
    if len(columns) != 1:
        return None
    return Structure(f"matrix {len(rows)} x {columns.pop()}", tuple(cell.strip() for row in rows for cell in row))


def _enclosed(text: str) -> tuple[str, str] | None:
    opening = next((one for one in _OPEN if text.startswith(one)), None)
    if opening is None:
        return None
    closing = next((one for one in _OPEN.values() if text.endswith(one)), None)
    if closing is None or len(text) < len(opening) + len(closing):
        return None
    depth, position = 0, 0
    for token in _TOKEN.findall(text):
        position += len(token)
        depth += _BRACKETS.get(token, 0)
        if depth == 0:
            break
    if depth or position != len(text):
        return None
    kind = "()" if opening == r"\langle" else (opening + closing).replace("\\", "")
    return kind, text[len(opening) : len(text) - len(closing)]


def _ungrouped(text: str) -> str:
    return _GROUPED.sub(lambda grouped: grouped[0].replace(",", ""), text)


def _split(text: str, separator: str) -> tuple[str, ...]:
    depth, parts = 0, [""]
    for token in _TOKEN.findall(text):
        depth += _BRACKETS.get(token, 0)
        if depth == 0 and token == separator:
            parts.append("")
        else:
            parts[-1] += token
    return tuple(part.strip() for part in parts)
