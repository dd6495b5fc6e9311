"""Numbers written as English words: "twenty-one", "three hundred and five", "two million"."""

from __future__ import annotations

import re

_BELOW_20 = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_BELOW_20.split())} | {
    word: 20 + 10 * index for index, word in enumerate(_TENS.split())
}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = "|".join([*_SMALL, "hundred", *SCALES])
NUMBER_WORDS = rf"(?i:\b(?:{_WORD})(?:(?:[ -]|\s+and\s+)(?:{_WORD}))*\b)"
MAX_WORDS = 20


def number_of_words(text: str) -> int | None:
    """Reads a whole text as a number in words, with an optional "minus"; None if it is none or not well formed."""
    if len(text) > 200:
        return None
    words = [word for word in re.split(r"[\s-]+", text.strip().lower()) if word != "and"]
    negative = words[:1] in (["minus"], ["negative"])
    words = words[1:] if negative else words
    if not words or len(words) > MAX_WORDS:
        return None
    total, part, last = 0, 0, ""
    for word in words:
        if word in _SMALL:
            value = _SMALL[word]
            if last in _SMALL and not (_SMALL[last] >= 20 and 0 < value < 10):
                return None
            part += value
        elif word == "hundred" and (not last or (last in _SMALL and 0 < part < 100)):
            part = 100 * (part or 1)  # "a hundred"
        elif word in SCALES and (not last or part):
            total, part = total + (part or 1) * SCALES[word], 0
        else:
            return None
        last = word
    return -(total + part) if negative else total + part
