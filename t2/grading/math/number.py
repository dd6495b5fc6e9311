r"""Exact numbers of the many spellings of a number, and when two of them are equal.

Integers, fractions, mixed numbers, terminating and repeating decimals, scientific notation and number words are exact
rationals. A decimal is equal to a rational only if it is that rational: 0.333333 is not 1/3, as in `is_equiv` of
hendrycks/math and in Minerva's sympy rule, which both refuse a rounding of an exact gold answer. Two decimals that are
no integers are inexact and are compared within `RELATIVE_TOLERANCE`, which is math-verify's six digits, but relative,
so that small numbers do not equal 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from t2.grading.number_words import SCALES, number_of_words

RELATIVE_TOLERANCE = Fraction(1, 10**6)
MAX_NUMBER_CHARS = 100
MAX_EXPONENT = 400

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]{1,3}(?:[ '][0-9]{3})+|[0-9]{1,3}(?:\.[0-9]{3}){2,}|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_TIMES = r"\s*(?:\\times|\\cdot|\*|x)\s*"
_POWER = r"\s*\^\s*(?:\{\s*(?P<{0}a>[+-]?[0-9]+)\s*\}|(?P<{0}b>[+-]?[0-9]+))"
_FORMS = tuple(
    re.compile(r"(?P<sign>[+-]?)\s*" + form)
    for form in (
        rf"(?P<plain>{_DECIMAL})",
        rf"(?P<top>{_DECIMAL})\s*/\s*(?P<bottom>-?{_PLAIN})",
        rf"\\frac\s*\{{\s*(?P<top>-?{_DECIMAL})\s*\}}\s*\{{\s*(?P<bottom>-?{_DECIMAL})\s*\}}",
        r"(?P<whole>[0-9]+)\s*\\frac\s*\{\s*(?P<top>[0-9]+)\s*\}\s*\{\s*(?P<bottom>[0-9]+)\s*\}",
        r"(?P<whole>[0-9]+)\s+(?P<top>[0-9]+)\s*/\s*(?P<bottom>[0-9]+)",
        rf"(?P<plain>{_PLAIN})[eE](?P<exponent>[+-]?[0-9]+)",
        rf"(?:(?P<plain>{_PLAIN}){_TIMES})?10{_POWER.replace('{0}', 'power_')}",
        r"(?P<head>[0-9]*)\.(?P<fixed>[0-9]*)\\overline\s*\{(?P<cycle>[0-9]+)\}",
    )
)
_SCALED = re.compile(rf"([+-]?)({_PLAIN})\s+({'|'.join(SCALES)})", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """A rational, and whether it was written as a decimal that may be rounded."""

    value: Fraction
    is_decimal: bool = False


def number(text: str) -> Number | None:
    """Reads a whole text, spelled as by `t2.grading.math.normal_form`, as one number; None if it is none."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    text = text.strip()
    if scaled := _SCALED.fullmatch(text):
        return _number(
            {"plain": scaled[2], "sign": scaled[1], "exponent": str(len(str(SCALES[scaled[3].lower()])) - 1)}
        )
    for form in _FORMS:
        if match := form.fullmatch(text):
            return _number(match.groupdict())
    word = number_of_words(text)
    return Number(Fraction(word)) if word is not None else None


def equal(gold: Number, answer: Number) -> bool:
    """Returns whether two numbers are equal, within the tolerance if both are decimals; never true across zero."""
    if gold.is_decimal and answer.is_decimal:
        return abs(gold.value - answer.value) <= RELATIVE_TOLERANCE * abs(gold.value)
    return gold.value == answer.value


def _number(parts: dict[str, str | None]) -> Number | None:
    negative = parts.get("sign") == "-"
    exponent = int(parts.get("exponent") or parts.get("power_a") or parts.get("power_b") or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    if cycle := parts.get("cycle"):
        head, fixed = parts["head"] or "", parts["fixed"] or ""
        repeating = Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))
        value, is_decimal = Fraction(int(head + fixed or 0), 10 ** len(fixed)) + repeating, False
    elif (bottom := parts.get("bottom")) is not None:
        if not (below := _decimal(bottom)):
            return None
        fraction = _decimal(parts["top"] or "") / below
        if (whole := parts.get("whole")) is not None and not (0 < fraction < 1):
            return None
        value, is_decimal = fraction + int(whole or 0), False
    else:
        plain = parts.get("plain") or "1"
        value = _decimal(plain) * Fraction(10) ** exponent
        is_decimal = "." in plain and value.denominator != 1
    return Number(-value if negative else value, is_decimal)


def _decimal(text: str) -> Fraction:
    digits = re.sub(r"[,' ]", "", text)
    return Fraction(digits.replace(".", "") if digits.count(".") > 1 else digits)
