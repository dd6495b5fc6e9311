r"""Comparing two answers part by part: structure, equations, units, numbers; only what is left is an expression.

What is left goes to `ask`, a function that tells whether two expressions without structure or unit are equivalent. At
most `MAX_ASKED` members of a list without an order are compared in this way, so that a hostile list has a bounded cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from t2.grading.math.normal_form import ascii_only, normalized, signs
from t2.grading.math.number import equal, number
from t2.grading.math.structure import Structure, structure, without_brackets
from t2.grading.math.units import is_scaled, split_unit

Ask = Callable[[str, str], bool]

MAX_DEPTH = 8
MAX_ASKED = 6
MAX_MEMBERS = 30  # of a list without an order

_SPACING = re.compile(r"(?<!\\)\\(?:[,;:! ]|q?quad(?![A-Za-z])|(?:left|right|displaystyle|textstyle)(?![A-Za-z]))|~")
_DELIMITERS = re.compile(r"\\[()\[\]]|\$\$|(?<!\\)\$(?![0-9])|(?<!\\)\$(?=[^$]*\$)")
_LATEX_COMMA = re.compile(r"\{,\}|,\s*\\!\s*")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_MEMBER_OF = re.compile(r"\s*[A-Za-z]\s*\\in(?![A-Za-z])")
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)")
_NAME = r"(?:[A-Za-z]|\\[A-Za-z]+|\\(?:text|mathrm|overline|angle)\s*\{[^{}]*\})(?:_\{?[A-Za-z0-9]+\}?)?'?"
_CALL = r"(?:\^\{-1\})?\s*\([^()]*\)"
_VARIABLE = re.compile(
    rf"\s*(?:{_NAME}(?:{_CALL})?|\\angle\s*[A-Z]{{1,3}}|[A-Z]{{2,3}}|\\frac\{{d[a-z]\}}\{{d[a-z]\}})\s*"
)
_RELATION = re.compile(r"[<>]|\\(?:le|ge|leq|geq|lt|gt|neq|ne|in|approx|sim)(?![A-Za-z])")
_BASE = re.compile(r"([0-9A-Z]+)_\{?([0-9]{1,2})\}?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' .-]*[A-Za-z]")
_TEXT_OF_NUMBER = re.compile(r"\\text\s*\{\s*([0-9][^{}]*)\}")
_SET_OF_ALL = re.compile(r"\\?\{\s*[A-Za-z]\s*(?:\\mid|\||:)\s*(.*?)\\?\}")
_REALS = re.compile(
    r"\(\s*-\s*\\infty\s*,\s*\+?\\infty\s*\)|(?:\\text\s*\{\s*)?all real(?:s| numbers)\s*\}?|\\mathbb\s*R\b", re.I
)
_PLAIN_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)")
_PLAIN_FUNCTION = re.compile(r"(?<![A-Za-z\\])(?=(?:sin|cos|tan|exp|ln|log)\s*\()")
_WORD_INFINITY = re.compile(r"\binfinity\b", re.IGNORECASE)
_IMAGINARY = re.compile(r"(?<=[0-9)}])i(?![A-Za-z])")
_RATIO = re.compile(r"[0-9.]+(?::[0-9.]+)+.*")


def clean(text: str) -> str:
    """Returns an answer on one line in LaTeX, without delimiters, sizes and spacing commands; units stay."""
    text = ascii_only(text)
    while (box := _BOX.fullmatch(text.strip())) is not None:
        text = box[1]
    text = _PLAIN_FUNCTION.sub(r"\\", _PLAIN_ROOT.sub(r"\\sqrt{\1}", text))
    text = _LATEX_COMMA.sub(",", text)
    text = _DELIMITERS.sub(" ", _SPACING.sub(" ", text))
    text = " ".join(_WORD_INFINITY.sub(lambda _: r"\infty", text).split()).rstrip(" .")
    for form in (_TEXT_OF_NUMBER, _SET_OF_ALL):
        if inside := form.fullmatch(text):
            text = inside[1].strip()
    return r"\mathbb{R}" if _REALS.fullmatch(text) else text


def equivalent(gold: str, answer: str, ask: Ask, depth: int = 0) -> bool:
    """Returns whether two cleaned answers are equivalent."""
    if cheaply_equal(gold, answer):
        return True
    if depth > MAX_DEPTH or not gold or not answer:
        return False
    gold, answer = _MEMBER_OF.sub("", gold), _MEMBER_OF.sub("", answer)
    one, other = structure(gold), structure(answer)
    if one and other:
        return _same_structure(one, other, ask, depth + 1)
    if one or other:
        # An inequality as the gold answer accepts the interval that solves it, as in math-verify.
        return bool(_RELATION.search(gold)) and one is None and ask(gold, answer)
    return _single(without_brackets(gold), without_brackets(answer), ask)


def cheaply_equal(a: str, b: str) -> bool:
    """Returns whether both have the same normalized text or are the same number; symmetric, in linear time."""
    signs_of_a, signs_of_b = signs(a), signs(b)
    if signs_of_a and signs_of_b and not signs_of_a & signs_of_b:
        return False
    one, other = normalized(a), normalized(b)
    if one and one == other:
        return True
    x, y = number(one), number(other)
    return x is not None and y is not None and x.value == y.value


def _same_structure(gold: Structure, answer: Structure, ask: Ask, depth: int) -> bool:
    if gold.kind != answer.kind or len(gold.members) != len(answer.members):
        return False
    variables = {side for member in gold.members if (side := _variable_of(member))}
    bare = not any(_EQUALS.search(member) for member in answer.members)
    if gold.has_order or (len(variables) > 1 and bare):  # x = 1, y = 2 against 1, 2
        pairs = zip(gold.members, answer.members, strict=True)
        return all(equivalent(one, other, ask, depth) for one, other in pairs)
    return _same_members(gold.members, answer.members, ask, depth)


def _same_members(gold: Sequence[str], answer: Sequence[str], ask: Ask, depth: int) -> bool:
    if len(gold) > MAX_MEMBERS:
        return False
    rest, unmatched = list(answer), []
    for member in gold:
        found = next((other for other in rest if cheaply_equal(member, other)), None)
        if found is None:
            unmatched.append(member)
        else:
            rest.remove(found)
    if len(rest) > MAX_ASKED:
        return False
    for member in unmatched:
        found = next((other for other in rest if equivalent(member, other, ask, depth)), None)
        if found is None:
            return False
        rest.remove(found)
    return True


def _single(gold: str, answer: str, ask: Ask) -> bool:
    gold_sides, answer_sides = _EQUALS.split(gold), _EQUALS.split(answer)
    if len(gold_sides) == 1 and len(answer_sides) > 1:
        # f(2) = 2 + 3 = 5 for the gold 5: all that is not a name must be the gold.
        values = [side for side in answer_sides if not _VARIABLE.fullmatch(side)] or answer_sides[-1:]
        return all(_value(gold, side.strip(), ask) for side in values)
    if len(gold_sides) == 2 and len(answer_sides) == 1:
        if not _variable_of(gold) or _RELATION.search(answer):
            return False
        left, right = gold_sides
        return _value((right if _VARIABLE.fullmatch(left) else left).strip(), answer, ask)
    if len(gold_sides) == 2 and len(answer_sides) == 2:
        one, other = _variable_of(gold), _variable_of(answer)
        if one and one == other:
            values = [left if _VARIABLE.fullmatch(right) else right for left, right in (gold_sides, answer_sides)]
            if not _VARIABLE.fullmatch(values[0]):
                return _value(values[0].strip(), values[1].strip(), ask) or ask(gold, answer)
        return ask(gold, answer)
    return _value(gold, answer, ask)


def _variable_of(text: str) -> str | None:
    sides = _EQUALS.split(text)
    if len(sides) != 2:
        return None
    return next((side.strip() for side in sides if _VARIABLE.fullmatch(side)), None)


def _value(gold: str, answer: str, ask: Ask) -> bool:
    if bool(_RELATION.search(gold)) != bool(_RELATION.search(answer)):
        return False
    if is_scaled(gold) != is_scaled(answer):  # math-verify passes over words
        return False
    (gold, unit), (answer, other_unit) = split_unit(gold), split_unit(answer)
    if unit and other_unit and unit != other_unit:
        return False
    if cheaply_equal(gold, answer):
        return True
    one, other = number(normalized(gold)), number(normalized(answer))
    if one and other:
        percents = ((unit == "percent") - (other_unit == "percent")) * 2
        scaled = type(one)(one.value / 10**percents if percents > 0 else one.value * 10**-percents, one.is_decimal)
        return equal(one, other) or (percents != 0 and equal(scaled, other))
    bases = _BASE.fullmatch(normalized(gold)), _BASE.fullmatch(normalized(answer))
    if any(bases) and all(match or numeral for match, numeral in zip(bases, (one, other), strict=True)):
        return bool(bases[0] and bases[1]) and bases[0].groups() == bases[1].groups()  # type: ignore[union-attr]
    if any(_RATIO.fullmatch(text) for text in (gold, answer)):
        return False  # beyond the same text
    words = normalized(gold), normalized(answer)
    if all(len(text) == 1 and text.isalpha() for text in words):
        return False  # k is not K
    if any(_WORDS.fullmatch(text) and len(text) > 1 and text.lower() != "infinity" for text in words):
        if all(_WORDS.fullmatch(text) and len(text) > 2 for text in words):
            return words[0].casefold() == words[1].casefold()
        if any(" " in text for text in words if _WORDS.fullmatch(text)):
            return False
    return ask(_IMAGINARY.sub(" i", gold), _IMAGINARY.sub(" i", answer))
