r"""Extracting the answer from a completion: numbers, \boxed{}, words, lines.

Pure functions that never raise, use no random state and take time linear in the length of any text. Whether an answer
is correct is decided by the tasks, and for expressions by `t2.grading.math.equality`; what a worked answer states is
read by `t2.grading.stated_number` and `t2.grading.choice`. Numbers are exact decimals here, so that "72.0" equals "72";
powers of ten of three digits ("4.2e+07") are read, and fractions are not read as one number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

# A minus after a word or a closing bracket is a subtraction, not a sign: "5-3" holds 5 and 3.
_NUMBER = (
    r"(?P<sign>(?<![\w)\]}])[-−])?(?:\\?[$€£](?P<inner>[-−])?)?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)"
    r"(?:[eE](?P<exponent>[-+−]?[0-9]{1,3})(?![0-9]))?"
)
_ANY_NUMBER = re.compile(_NUMBER)
_HASHED_NUMBER = re.compile(r"####[ \t]*" + _NUMBER)
_LATEX_COMMA = re.compile(r"\{,\}|,\\!")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BRACKETED = re.compile(r"\[([^\[\]]*)\]")
_ZEROS = re.compile(r"(?<=[0-9])\.0+$")
_BARE = re.compile(r"[^\s${}\\]+")


def _decimal(match: re.Match[str]) -> Decimal:
    digits = match["digits"].replace(",", "")
    if match["exponent"]:
        digits += f"e{match['exponent'].replace('−', '-')}"
    return Decimal(f"-{digits}" if match["sign"] or match["inner"] else digits)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def all_numbers(text: str) -> list[Decimal]:
    """Returns the numbers of a text in their order, read as `last_number` reads the last."""
    return [_decimal(match) for match in _ANY_NUMBER.finditer(_LATEX_COMMA.sub(",", text))]


def last_number(text: str) -> Decimal | None:
    """Returns the last number of a text with its sign; "1,080" is one number, "1, 80" and "10-20" are two."""
    match = _last(_ANY_NUMBER, _LATEX_COMMA.sub(",", text))
    return _decimal(match) if match else None


def final_number(text: str) -> Decimal | None:
    r"""Returns the number in the last \boxed{}, else that after the last ####, else the last number."""
    box = boxed(text)
    marked = last_number(box) if box is not None else None
    if marked is not None:
        return marked
    hashed = _last(_HASHED_NUMBER, _LATEX_COMMA.sub(",", text))
    return _decimal(hashed) if hashed else last_number(text)


def boxed(text: str) -> str | None:
    r"""Returns the content of the last \boxed{...} or \fbox{...}, or `\boxed 5`; None if missing or unclosed."""
    box = _last(_BOX, text)
    if box is None:
        return None
    start = box.end()
    if not text.startswith("{", start):
        bare = _BARE.match(text, start)
        return bare[0].rstrip(".,;:") if bare else None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)  # an escaped brace counts as text
        if depth == 0:
            return text[start + 1 : brace.start()]
    return None


def matching_word(text: str, words: Sequence[str]) -> str | None:
    """Returns the entry of `words` that a text names first, in any case; "mother-in-law" does not name "mother"."""
    known = sorted({word for word in words if word}, key=lambda word: (-len(word), word))
    if not known:
        return None
    alternatives = "|".join(f"({re.escape(word)})" for word in known)
    found = re.search(rf"(?<!\w)(?<!\w-)(?:{alternatives})(?!\w|-\w)", text, re.IGNORECASE)
    return known[found.lastindex - 1] if found and found.lastindex else None


def first_line(text: str) -> str:
    """Returns the first line that is not blank, less a colon before it, quotes, asterisks and full stops; else ""."""
    lines = (line.strip().removeprefix(":").strip("\"'`*.“”‘’ ") for line in text.splitlines())
    return next((line for line in lines if line), "")


def listed_items(text: str) -> tuple[str, ...] | None:
    """Returns the items, separated by commas, of the last [...], else of the first line; None if there is neither.

    Case, quotes, what precedes a colon and a fraction of zeros are ignored: "['40', '4.0']" and "The list is: 40, 4"
    hold the same items. "]" alone ends an empty list that was begun before the text.
    """
    brackets = _BRACKETED.findall(text)
    lines = (line.rpartition(":")[2] for line in text.splitlines() if any(map(str.isalnum, line)))
    listed = brackets[-1] if brackets else next(lines, None)
    if listed is None:
        return () if "]" in text else None
    items = (_ZEROS.sub("", item.strip(" \t\"'`*“”‘’[].").casefold()) for item in listed.split(","))
    return tuple(item for item in items if item)
