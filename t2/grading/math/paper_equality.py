r"""The equality of MATH answers in the paper's code, with its defects, for numbers to be set beside the paper's.

Source: SakanaAI/self-adaptive-llms, `evaluation/fishfarm/fishfarm/tasks/competation_math.py`, itself made of
hendrycks/math and of ToRA's `math_equal`: both texts are stripped, then equal as numbers (within 1e-4, and also when
one is a hundred times the other), as texts without brackets, or member by member as lists.

Its last resort, `symbolic_equal`, is left out. LaTeX never reached it: beside Hydra, whose antlr is 4.9, sympy refuses
to parse LaTeX, and the error was swallowed. Plain text ("x+1" against "1+x") did, through a parser that evaluates what
a model wrote as Python. `t2.grading.math.equality` is the default.
"""

from __future__ import annotations

import math
import re

_SLASHED = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")
_RELATIVE_TOLERANCE = 1e-4


def is_equiv(gold: str, answer: str) -> bool:
    """Returns whether the paper's code takes the answer for right; never raises (theirs fails at `\\frac`)."""
    try:
        one, other = _stripped(gold), _stripped(answer)
    except ValueError:
        one, other = gold, answer
    return one == other or _equal(one, other)


def _stripped(text: str) -> str:
    """One form for many spellings; ValueError where the paper's code gives up and compares the texts as they are."""
    text = text.replace("\n", "").replace(r"\!", "").replace(r"\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace(r"\left", "").replace(r"\right", "")
    text = text.replace(r"^{\circ}", "").replace(r"^\circ", "").replace(r"\$", "")
    text, *units = text.split(r"\text{ ")
    if len(units) > 1:
        raise ValueError("more than one unit")
    text = text.replace(r"\\%", "").replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = f"0{text}"
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    if text == "0.5":
        return r"\frac{1}{2}"
    slashed = _SLASHED.fullmatch(text)
    return rf"\frac{{{slashed[1]}}}{{{slashed[2]}}}" if slashed else text


def _braced_roots(text: str) -> str:
    r"""\sqrt3 -> \sqrt{3}: the next character is the argument, even a space."""
    head, *pieces = text.split(r"\sqrt")
    if "" in pieces:
        raise ValueError("a root of nothing")
    return head + "".join(rf"\sqrt{piece if piece[0] == '{' else f'{{{piece[0]}}}{piece[1:]}'}" for piece in pieces)


def _braced_fractions(text: str) -> str:
    r"""\frac12 -> \frac{1}{2}, \frac1{72} -> \frac{1}{72}; unchanged as a whole where one is cut short."""
    head, *pieces = text.split(r"\frac")
    fixed = [head]
    for piece in pieces:
        if not piece:
            raise ValueError("a fraction of nothing")
        if piece[0] == "{":
            fixed.append(piece)
        elif len(piece) == 1:
            return text
        else:
            below = piece[1:] if piece[1] == "{" else f"{{{piece[1]}}}{piece[2:]}"
            fixed.append(f"{{{piece[0]}}}{below}")
    return r"\frac".join(fixed)


def _equal(gold: str, answer: str) -> bool:
    pairs = [(gold, answer)]
    while pairs:  # a list is equal if all its members are
        one, other = pairs.pop()
        x, y = _float(one), _float(other)
        if x is not None and y is not None:
            if not any(math.isclose(scaled, x, rel_tol=_RELATIVE_TOLERANCE) for scaled in (y / 100, y, y * 100)):
                return False
            continue
        if not one:
            return False
        one, other = one.strip(), other.strip()
        bare, other_bare = _without_brackets(one, other)
        if bare == other_bare:
            continue
        kinds = [kind for kind in ("[]", "()") if _enclosed(one, kind) and _enclosed(other, kind)]
        members, others = one[1:-1].split(","), other[1:-1].split(",")
        if not kinds or len(members) != len(others):
            return False
        pairs += zip(members, others, strict=True)
    return True


def _enclosed(text: str, kind: str) -> bool:
    return text.startswith(kind[0]) and text.endswith(kind[1])


def _without_brackets(gold: str, answer: str) -> tuple[str, str]:
    square = _enclosed(gold, "[]") and not answer.startswith("(")
    if square or (_enclosed(gold, "()") and not answer.startswith("[")):
        gold, answer = gold.strip("[]()"), answer.strip("[]()")
    dropped = str.maketrans("", "", "{}()")
    return gold.translate(dropped), answer.translate(dropped)


def _float(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
