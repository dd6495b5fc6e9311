r"""The unit that follows a number, in one spelling: "5 \text{ centimeters}" is 5 and "cm".

Units are compared where both answers have one, and are not converted: 5 m is not 500 cm, as in `is_equiv` of
hendrycks/math, which drops a unit on one side. A word counts as a unit if it is known or has at least three letters,
and does not change the number: "12 million" and "5 dozen" have none.
"""

from __future__ import annotations

import re

_SPELLINGS = """
    mm millimeter millimetre; cm centimeter centimetre; m meter metre; km kilometer kilometre; in inch inches;
    ft foot feet; yd yard; mi mile; mg milligram; g gram; kg kilogram; lb lbs pound; oz ounce; ml milliliter millilitre;
    l liter litre; gal gallon; s sec second; min minute; h hr hour; day; week; month; yr year;
    degree deg; rad radian; percent percentage pct %; dollar usd $; cent ¢; euro €; £; unit; mph; kph km/h; m/s;
    c celsius; f fahrenheit; hz hertz; v volt; w watt; j joule; a.m am; p.m pm
"""
_CANONICAL = {name: names.split()[0] for names in _SPELLINGS.split(";") if names.split() for name in names.split()} | {
    "mi/h": "mph",
    "km/h": "kph",
}
_WORDS = "or and not if when but to than the is are sin cos tan log ln exp mod"
_AMOUNTS = """
    hundred thousand million billion trillion dozen squared cubed factorial half halves third thirds fourths fifth
    fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth
    thousandths below minus negative plus times root pi
"""  # words that change the number before them
_SCALING = frozenset(_AMOUNTS.split())
_NO_UNITS = frozenset(_WORDS.split()) | _SCALING
_FONT = r"\\(?:text(?:rm|bf|it|normal)?|mbox|mathrm)\s*\{"
_TAIL = re.compile(
    r"(?P<text>.*?[0-9A-Za-z)}!.])\s*(?P<unit>"
    rf"(?:{_FONT}[^{{}}]*\}}|\s[A-Za-z./ -]{{1,40}}|(?<=[0-9])[a-z]{{2,3}})(?:\s*\^\s*(?:\{{[23]\}}|[23]))?)\s*\.?",
    re.DOTALL,
)
_COUNTABLE = re.compile(r"[0-9\\\\]|^[A-Za-z]$")  # "No solution" holds no unit
_SIGN = (
    (re.compile(r"\s*\\?%\s*"), "percent"),
    (re.compile(r"\s*(?:\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|°|\\degrees?(?![A-Za-z]))\s*"), "degree"),
    (re.compile(r"\s*(?:\\\$|(?<!\\)\$)\s*"), "dollar"),
    (re.compile(r"\s*€\s*"), "euro"),
    (re.compile(r"\s*£\s*"), "£"),
)


def split_unit(text: str) -> tuple[str, str | None]:
    """Returns what stands before the unit (behind it, for a currency), and the unit; None if the text has no unit."""
    for sign, name in _SIGN:
        found = sign.search(text)
        if found and (found.start() == 0 or not text[found.end() :].strip(" .") or name == "dollar"):
            return sign.sub(" ", text).strip(), name
    match = _TAIL.fullmatch(text)
    unit = _canonical(match["unit"]) if match else None
    if not match or not unit or not _COUNTABLE.search(match["text"]):
        return text, None
    number, sign_before = split_unit(match["text"].strip())  # 20^\circ \text{C}
    return (number if sign_before == "degree" else match["text"].strip()), unit


def is_scaled(text: str) -> bool:
    """Returns whether words behind a number make it another one: "5 dozen", "6 hours 30 minutes"."""
    match = _TAIL.fullmatch(text)
    if not match or not _COUNTABLE.search(match["text"]):
        return False
    name = _name(match["unit"])
    return bool(_SCALING & set(name.split()) or re.search("[0-9]", name))


def _name(unit: str) -> str:
    return re.sub(rf"{_FONT}|\}}|\^\s*\{{?[23]\}}?\s*$", " ", unit).strip(" .").lower()


def _canonical(unit: str) -> str | None:
    in_text = bool(re.match(rf"\s*{_FONT}", unit))
    power = re.search(r"\^\s*\{?([23])\}?\s*$", unit)
    name = _name(unit)
    words = name.split()
    if not words or _NO_UNITS & set(words) or re.search("[0-9]", name):  # 6 hours 30 minutes
        return None
    exponent = power[1] if power else ""
    for word, dimension in (("square", "2"), ("sq", "2"), ("cubic", "3")):
        if word in words:
            words.remove(word)
            exponent = dimension
    words = [_word(word) for word in words]
    joined = " ".join(words).replace(" per ", "/").replace(" / ", "/")
    joined = _CANONICAL.get(joined, joined)
    known = joined in _CANONICAL.values() or all(part in _CANONICAL.values() for part in re.split("[ /]", joined))
    if not known and not (in_text or any(len(word) > 2 for word in words)):
        return None
    return joined + exponent if joined else None


def _word(word: str) -> str:
    if word in _CANONICAL:
        return _CANONICAL[word]
    singular = word[:-1] if word.endswith("s") and len(word) > 3 else word
    return _CANONICAL.get(singular, singular)
