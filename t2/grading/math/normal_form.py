r"""One spelling for many of a mathematical text: unicode, fonts, spacing, delimiters, the signs of units.

`normalized` only removes what does not change the meaning and never evaluates. The source of the rewrites is
`is_equiv` of hendrycks/math, widened by unicode and by what models write outside LaTeX.
"""

from __future__ import annotations

import re

_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "‒": "-", "π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot "}
    | {"÷": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\neq ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm "}
    | {"∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}"}
    | {"¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "’": "'"}
    | dict.fromkeys("\u00a0\u2009\u202f\u2007", " ")
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n")
# Applied in this order. A command becomes a space where its neighbors could otherwise be joined ("3^\circ 4").
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"√\s*(?:\(([^()]*)\)|([0-9]+|[A-Za-z]))", r"\\sqrt{\1\2}"),
        (r"\\(?:left|right|displaystyle|textstyle|limits)(?![A-Za-z])", ""),
        (r"\\[cdt]frac(?![A-Za-z])", r"\\frac"),
        (r"\\leq(?![A-Za-z])|\\leqslant(?![A-Za-z])", r"\\le"),
        (r"\\geq(?![A-Za-z])|\\geqslant(?![A-Za-z])", r"\\ge"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\{,\}|,\s*\\!\s*", ","),
        (r"\\!", ""),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|°|\\degrees?(?![A-Za-z])", " "),
        (r"\\?[%$]", " "),
        (r"\\[()\[\]]", " "),  # delimiters of a formula, not its parentheses
        (r"(?<!\\)\\(?:[,;:> ]|q?quad(?![A-Za-z]))|~", " "),
        (r"\\(?:text(?:rm|bf|it|normal)?|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\(frac|sqrt)\s*([0-9])", r"\\\1{\2}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9])", r"\1{\2}"),
    )
)
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_LOOSE_SPACE = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])")  # "1 2" is not "12", nor "\in t" "\int"
_POWER = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+")
_SIGNS = (
    ("degree", re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|°|\\degree")),
    ("percent", re.compile("%")),
    ("dollar", re.compile(r"\\\$")),
)


def ascii_only(text: str) -> str:
    """Replaces the unicode signs of mathematics by LaTeX: "x²" is "x^{2}", "½" a fraction, a thin space a space."""
    return _POWER.sub(lambda power: f"^{{{power[0].translate(_SUPERSCRIPTS)}}}", text).translate(_UNICODE)


def signs(text: str) -> frozenset[str]:
    """Returns which of the signs that `normalized` drops a text holds: degree, percent, dollar."""
    return frozenset(name for name, pattern in _SIGNS if pattern.search(text))


def normalized(text: str) -> str:
    """Removes what does not change the meaning: spacing, font, delimiters, signs of units, a final period."""
    text = ascii_only(text)
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    text = " ".join(text.split()).rstrip(" .")
    if _GROUPED.fullmatch(text):
        return text.replace(",", "")
    return re.sub(r",(?=.)", ", ", _LOOSE_SPACE.sub("", text))  # lists keep their spaces: "1, 234" is not 1,234
