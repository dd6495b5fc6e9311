r"""The option that a worked answer chooses: in \boxed{}, as a stated answer, called correct, first, or last.

The order of the rules: the last \boxed{} with a letter; the last "answer is (B)", "correct option: B" and the like that
is not negated; the last "B is correct" or "I choose B"; a letter that the text begins with ("(B) because A is wrong");
the last letter that is not refused ("not A", "rather than A", "A is wrong"). "(B) or (C)" as the stated answer chooses
none, also within a box, and neither does a list of the options, one a line, nor "none of A, B or C". A small letter is
an option in brackets, at the end of a statement, and where it is all of the text or begins it as "c)" or "c.".

The paper's code (SakanaAI/self-adaptive-llms, commit 03a41ae) takes `answer is \(?([A-J])\)?`, else
`answer:\s*([A-J])`, else the last letter that is a word. The functions never raise and take time linear in the length
of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from t2.grading.answers import boxed

_ARTICLE_ENDS = (
    r"is|because|since|as|due|rather|instead|over|not|but|the|which|where|while|so\s+that"
    r"|(?:and|n?or)\s+(?:not\s+)?\(?[A-J]\b"
)
_VERBS = r"is|would be|should be|must be|has to be|will be|[:=]"
_MARKS = (
    r"(?:[\s:*_\"'‘’“(\[$>{}（【]|\\(?:text(?:bf)?|mathrm|\(|\[)|(?i:both|either|option|choice|letter|clearly|definitely"
    r"|certainly|obviously|probably|likely|most likely|indeed|therefore|thus|simply)\b){0,12}+"
)
_SUBJECT = r"\b(?:answer|(?:correct|best|right)\s(?:option|choice|one|letter))\b"
_REFUSING = (
    r"\bnot|n't(?:\sbe)?|\bcannot be|\brul(?:e|es|ed|ing) out|\beliminat(?:e|es|ed|ing)|\bexclud(?:e|es|ed|ing)"
    r"|\breject(?:s|ed)?|\bover|\brather than|\binstead of|\bunlike|\bthan|\bexcept"
)
_WRONG = r"(?:also\s|both\s|clearly\s|all\s)?(?:not|wrong|incorrect|false|out)\b"
_REFUSED_ONE = rf"(?:is|was|seems)\s+{_WRONG}|isn't\b"  # "B, C is wrong" refuses C alone
_REFUSED = rf"(?:are|were|would be|seem)\s+{_WRONG}|(?:aren't|cannot|can't|doesn't|does not|do not)\b"
_CORRECT = r"is\s+(?:therefore\s|clearly\s)?(?:the\s)?(?:most\s)?(?:correct|right|best|true|answer)\b"
_CHOOSING = r"\b(?:choose|pick|select|go with|going with|opt for)\b"
_CLOSING = r"[)\]*_\"'’”}）】]{0,6}+"
_TOGETHER = r"\b(?:(?:none|neither|all)\sof(?:\s(?:the\s)?(?:options|choices|answers)\b)?|neither\b)"
_FONT = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf))\s*\{([^{}]*)\}|\\ ")
_NEXT_QUESTION = re.compile(r"\n[ \t]{0,8}(?:Question|Q):")


@dataclass(frozen=True)
class _Patterns:
    alone: re.Pattern[str]
    stated: re.Pattern[str]
    correct: re.Pattern[str]
    hedged: re.Pattern[str]
    first: re.Pattern[str]
    listed: re.Pattern[str]
    refused: re.Pattern[str]
    together: re.Pattern[str]


@lru_cache(maxsize=64)
def _patterns(letters: str) -> _Patterns | None:
    articles = "".join(letter for letter in letters if letter in "AI")
    others = "".join(re.escape(letter) for letter in letters if letter not in "AI")
    forms = [rf"[{articles}](?![ \t]+(?!(?:{_ARTICLE_ENDS})\b)[a-z])"] if articles else []
    forms += [f"[{others}]"] if others else []
    if not forms:
        return None
    small = re.escape(letters.lower())
    form = f"(?:{'|'.join(forms)})"
    # A quote is one where no word is before it; the "A" of "A's" and of the point "A'" is no option.
    quoted = rf"(?<=['‘’])(?<!\w['‘’]){form}(?!\w|['’]\w|-\w)"
    word = rf"(?:(?<![\w'’°-]){form}(?![\w'’]|-\w)|{quoted})"
    letter = rf"(?P<letter>{word}|(?<=\()(?<!\w\()[{small}](?=\)))"
    ended = rf"(?P<letter>{word}|(?<!\w)[{small}](?=[)\]*\"'’”]*\s*(?:[.!?)\]]|$)))"
    a_list = rf"(?![\s\S]*\n[^\w\n]{{0,6}}[{small}][.)])"
    begun = rf"(?<![\w°-])[{small}](?:(?={_CLOSING}\.?\s*\Z)|(?=\)|\.\s){a_list})"
    between = r"(?>\s{0,3}+,?\s{0,3}(?:and|n?or)\s|\s{0,3}+\\?[,/&])"
    some = rf"{_MARKS}{word}{_CLOSING}(?:{between}{_MARKS}{word}{_CLOSING}){{0,9}}+"
    statement = rf"(?i:{_SUBJECT}(?P<verb>[^\n.:=]{{0,60}}?(?:{_VERBS}))?){_MARKS}{ended}"
    return _Patterns(
        alone=re.compile(letter),
        stated=re.compile(statement),
        correct=re.compile(
            rf"(?P<letter>{word}){_CLOSING}\s+(?i:{_CORRECT})|(?i:{_CHOOSING}){_MARKS}(?P<chosen>{word})"
        ),
        hedged=re.compile(rf"{_CLOSING}(?:{between}{_MARKS}{word}|\s?\(\s?{word}\s?\))"),
        first=re.compile(
            rf"(?:[^\w\s]|\s){{0,10}}(?i:(?:option|choice)\s)?[^\w\s]{{0,4}}(?:{letter}|(?P<small>{begun}))"
        ),
        listed=re.compile(rf"^[^\w\n]{{0,6}}(?P<letter>{word})\s?(?:[.):]|$)", re.MULTILINE),
        refused=re.compile(
            rf"(?i:{_REFUSING}){some}|{_MARKS}{word}{_CLOSING}\s{{1,3}}(?i:{_REFUSED_ONE})"
            rf"|{some}\s{{1,3}}(?i:{_REFUSED})"
        ),
        together=re.compile(rf"(?i:{_TOGETHER}){some}"),
    )


def choice_letter(text: str, letters: str) -> str | None:
    """Returns the option that a text chooses, one of the capital `letters`, or None.

    A letter must be a word by itself; the article "A" and the pronoun "I" before a word are not options.
    """
    patterns = _patterns(letters)
    if patterns is None:
        return None
    box = _FONT.sub(lambda font: font[1] or " ", boxed(text) or "")
    if named := [first] if (first := patterns.first.match(box)) else list(patterns.alone.finditer(box)):
        return None if any(patterns.hedged.match(box, one.end()) for one in named) else _named(named[-1])
    text = _NEXT_QUESTION.split(text, maxsplit=1)[0] if text.strip() else text
    text = patterns.together.sub("...", text)
    refused = {index for span in patterns.refused.finditer(text) for index in range(*span.span())}
    stated = [one for one in patterns.stated.finditer(text) if one.start("letter") not in refused]
    if stated := [one for one in stated if one["verb"]] or stated:  # "Answer choice D" alone says little
        hedge = patterns.hedged.match(text, stated[-1].end())
        return None if hedge and not refused & set(range(*hedge.span())) else str(stated[-1]["letter"]).upper()
    if correct := _last(patterns.correct, text):
        return correct["letter"] or correct["chosen"]
    return _unmarked(text, patterns, refused)


def _unmarked(text: str, patterns: _Patterns, passed_over: set[int]) -> str | None:
    listed = list(patterns.listed.finditer(text))
    is_list = len({one["letter"] for one in listed}) > 1
    first = patterns.first.match(text)
    if first and not is_list and first.end() - 1 not in passed_over:
        is_hedged = patterns.hedged.match(text, first.end())
        if not is_hedged:
            return _named(first)
    if is_list:
        passed_over |= {one.start("letter") for one in listed}
    left = [one["letter"] for one in patterns.alone.finditer(text) if one.start("letter") not in passed_over]
    return left[-1].upper() if left else None


def _named(match: re.Match[str]) -> str:
    return str(match["letter"] if match["letter"] else match["small"]).upper()


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found
