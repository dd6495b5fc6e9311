r"""The number that a worked answer states: in \boxed{}, after ####, after "the answer is", else where the text ends.

The order of the rules: the last \boxed{} with a number; the last #### with one; the last "answer is", "answer:" and the
like that is not negated nor called right or wrong, of which the number right behind counts ("The answer is 10 (2 more
than 8)" states 10, and "18 = 9 * 2" 18); a last line that ends in "= X"; the last number outside of remarks in
brackets; the last number in words. Thousands separators (1,080, 1 080, 1'080, 1.080.000), multipliers (2 million, $2k),
fractions, mixed numbers and powers of ten are read. "1.080" is a decimal. A percent sign and units are ignored. "3 or
5" states nothing, and neither does an operation in a box ("20 - 5").

lm-evaluation-harness takes the number after #### (strict) or the last number of the text (flexible), without
multipliers. The functions never raise and take time linear in the length of the text.
"""

from __future__ import annotations

import re
from fractions import Fraction

from t2.grading.answers import boxed
from t2.grading.number_words import NUMBER_WORDS, SCALES, number_of_words

MAX_NUMBER_CHARS = 300
MAX_EXPONENT = 400
MAX_SENTENCE_CHARS = 2000

_SCALE = {"hundred": 100, "k": 1000, **SCALES}
_GROUPS = r"[0-9]{1,3}(?:,[0-9]{2,3}){0,6},[0-9]{3}|[0-9]{1,3}(?:[ '][0-9]{3}){1,6}|[0-9]{1,3}(?:\.[0-9]{3}){2,6}"
_PLAIN = rf"(?:(?:{_GROUPS})(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_VALUE = re.compile(
    r"(?<![\w.^])(?<!\^\{)(?P<sign>(?<![\w)\]}])-)?(?:\\?[$€£]\s?(?P<inner>-)?)?(?:"
    r"(?:(?P<units>[0-9]+) ?)?\\[dt]?frac\{(?P<over>[0-9]+)\}\{(?P<under>[0-9]+)\}"
    r"|(?:(?P<whole>[0-9]+) )?(?P<top>[0-9]+)/(?P<bottom>[0-9]+)(?![0-9])"
    rf"|(?P<plain>{_PLAIN})(?:[eE](?P<exponent>[+-]?[0-9]+)|\s?(?:\\times|\\cdot|\*|×)\s?10\^\{{?(?P<power>-?[0-9]+)\}}?"
    rf"|\s?(?P<scale>k\b|(?i:{'|'.join(name for name in _SCALE if name != 'k')})\b))?)"
)
_WORDS = re.compile(rf"(?i:\b(?:minus|negative)\s)?{NUMBER_WORDS}")
_BEFORE_MINUS = r"^|[=:#(]\s?|\b(?:is|was|are|be|to|of|by|equals)\s"
_VULGAR = (("½", "1/2"), ("¼", "1/4"), ("¾", "3/4"), ("⅓", "1/3"), ("⅔", "2/3"))
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\{,\}|,\\!", ","),
        (r"[−–]", "-"),
        *((rf"(?<=[0-9]) ?{sign}", f" {of}") for sign, of in _VULGAR),
        *((sign, of) for sign, of in _VULGAR),
        (r"[\u00a0\u2009\u202f]", " "),
        (r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\\[()\[\],;:! ]|\*\*|__|~", " "),
        (r" +", " "),
        # "7 minus 3" is a subtraction: "minus" is a sign only at the beginning of a number that is stated.
        (rf"(?i:({_BEFORE_MINUS})minus|(?<![\w-])(?<![0-9)\]}}] )negative)\s(?=[$0-9.])", r"\1-"),
    )
)
_STATED = re.compile(
    r"(?i:\banswer\b[^\n.:=0-9]{0,60}?(?:\b(?:is|would be|should be|will be|equals|was)\b|[:=])"
    r"(?P<negated>\s{0,3}(?:not|correct|right|wrong|incorrect|verified|checked|confirmed)\b)?)"
)
_FILLER = re.compile(
    r"(?i:(?:therefore|thus|so|approximately|about|around|roughly|exactly|only|simply|just|still|equal to|equals|usd"
    r"|eur|a total of|the|an?|it is|[a-z]\s?=)\b|[a-z]\s?=|[\s*_\"'(\[:,=])"
)
_ARITHMETIC = re.compile(r"[-+*/×÷x^().,0-9$€£%\s=]|\\(?:times|cdot|div)(?![A-Za-z])")
_OPERATION = re.compile(r"[0-9)]\s?(?:[-+*/×÷]|\\(?:times|cdot|div)(?![A-Za-z]))\s?[\\$€£(]{0,3}[0-9]")
_GOES_ON = re.compile(r"\s?(?:[-+*/×÷^]|\\(?:times|cdot|div)(?![A-Za-z]))\s?[\\$€£({]{0,3}[0-9]")
_SENTENCE_END = re.compile(r"\n|[.;?!](?=\s|$)")
_REMARK = re.compile(r"\([^()]{0,400}\)")
_HEDGE = re.compile(r"(?i:\s*(?:or)\b)")
_HEDGED = re.compile(r"(?i:\s*(?:between|from)\b)")
_EXPONENT = re.compile(r"\^\{?[0-9]\}?")
_EQUATION = re.compile(r"=\s?[\\$€£(]{0,3}-?[0-9]")
_LIST = re.compile(r"\s*[0-9]{1,2}[.)]\s+[^\W\d]")  # "1. First"
_NUMBERED_HEADING = re.compile(r"####[ \t]*\**(?P<number>[0-9]{1,2})[.):]\**[ \t]+[^\W\d][^\n]*")
_NEXT_QUESTION = re.compile(r"\n[ \t]{0,8}(?:Question|Q):")


def stated_number(text: str) -> Fraction | None:
    """Returns the number that a text states as its answer, exactly; None if it states none."""
    text = _NEXT_QUESTION.split(text, maxsplit=1)[0] if text.strip() else text
    box = boxed(text)
    if box is not None and (boxed_value := _of_box(_plain(box))) is not None:
        return boxed_value[0]
    text = _plain(text)
    if (heading := _NUMBERED_HEADING.search(text)) and heading["number"] == "1":
        text = _NUMBERED_HEADING.sub("", text)  # "#### 1. The eggs"
    for after in reversed(text.split("####")[1:]):
        line = after.lstrip(" \t:").partition("\n")[0][:MAX_SENTENCE_CHARS]
        if _VALUE.match(line) and (marked := _of_sentence(line)) is not None:
            return marked[0]
    statements = [found for found in _STATED.finditer(text) if not found["negated"]]
    if statements:
        follows = text[statements[-1].end() : statements[-1].end() + MAX_SENTENCE_CHARS].lstrip("\n *_:")
        sentence = follows[: end.start()] if (end := _SENTENCE_END.search(follows)) else follows
        if statements[-1][0].endswith((":", "=")) and _is_worked_out(sentence, follows):
            return _at_the_end(text)
        if _HEDGED.match(sentence):
            return None
        if (stated := _of_sentence(sentence)) is not None:
            return stated[0]
    return _at_the_end(text)


def _is_worked_out(sentence: str, follows: str) -> bool:
    """Whether "Answer:" is a heading: the first sentence below it is a step, and a computation comes after it."""
    if not _EQUATION.search(follows, len(sentence)):
        return False
    start = 0
    while filler := _FILLER.match(sentence, start):
        start = filler.end()
    return bool("=" in sentence[start:] or _LIST.match(follows) or not _VALUE.match(sentence, start))


def _plain(text: str) -> str:
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    return text


def _of_box(content: str) -> tuple[Fraction | None] | None:
    """Returns what a box states, in a tuple with None in it for two numbers or an operation; None if it has none."""
    chain, _, after_equals = content.rpartition("=")
    if result := _result_first(chain, after_equals):
        return (_fraction(result),)
    side = after_equals if _VALUE.search(after_equals) else content
    if value := _VALUE.search(side):
        is_open = _HEDGE.match(side, value.end()) or _GOES_ON.match(side, value.end())
        return (None,) if is_open else (_fraction(value),)
    return (word,) if (word := _of_words(content)) is not None else None


def _of_sentence(sentence: str) -> tuple[Fraction | None] | None:
    """Returns what a sentence states, in a tuple that holds None if it names two numbers; None without a number."""
    start = 0
    while filler := _FILLER.match(sentence, start):
        start = filler.end()
    if first := _VALUE.match(sentence, start):
        end = start
        while sign := _ARITHMETIC.match(sentence, end):
            end = sign.end()
        chain, equals, result = sentence[start:end].rpartition("=")
        if equals and (of_operation := _result_first(chain, result)):
            return (_fraction(of_operation),)
        if equals and (last := _VALUE.match(sentence, start + len(chain) + 1 + len(result) - len(result.lstrip()))):
            return (_fraction(last),)
        return (None,) if _HEDGE.match(sentence, first.end()) else (_fraction(first),)
    if word := _WORDS.match(sentence, start):
        return (_of_words(word[0]),)
    for part in (sentence.rpartition("=")[2], sentence):
        if (value := _last_value(part)) is not None:
            return (value,)
    return None


def _result_first(chain: str, last_side: str) -> re.Match[str] | None:
    """Returns the side of an equation that is a single number, where the last is an operation: "18 = 9 * 2"."""
    if not _OPERATION.search(last_side) or len(list(_VALUE.finditer(last_side))) < 2:
        return None
    return next((one for side in chain.split("=") if (one := _VALUE.fullmatch(side.strip(" (*")))), None)


def _at_the_end(text: str) -> Fraction | None:
    lines = text.strip().rsplit("\n", 1)[-1:]
    _, equals, result = lines[0].rpartition("=")
    value = _VALUE.match(result.lstrip(" *")) if equals else None
    if value and not _VALUE.search(_EXPONENT.sub("", result.lstrip(" *")[value.end() :])):
        return _fraction(value)
    outside = _REMARK.sub(lambda remark: " " if re.search("[A-Za-z]", remark[0]) else remark[0], text)
    for part in (outside, text):
        if (last := _last_value(part)) is not None:
            return last
    return _of_words(text)


def _last_value(text: str) -> Fraction | None:
    last = None
    for value in _VALUE.finditer(text):
        last = value
    return _fraction(last) if last else None


def _of_words(text: str) -> Fraction | None:
    values = [value for found in _WORDS.finditer(text) if (value := number_of_words(found[0])) is not None]
    return Fraction(values[-1]) if values else None


def _fraction(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > MAX_NUMBER_CHARS:
        return None
    top, bottom = match["over"] or match["top"], match["under"] or match["bottom"]
    if bottom:
        if not int(bottom):
            return None
        value = int(match["whole"] or match["units"] or 0) + Fraction(int(top), int(bottom))
    else:
        digits = re.sub(r"[,' ]", "", match["plain"])
        value = Fraction(digits.replace(".", "") if digits.count(".") > 1 else digits)
        exponent = int(match["exponent"] or match["power"] or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        value *= Fraction(10) ** exponent * _SCALE.get((match["scale"] or "").lower(), 1)
    return -value if match["sign"] or match["inner"] else value
