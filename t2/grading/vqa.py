"""Soft accuracy of short answers about images, as TextVQA and OK-VQA are scored.

Normalization is EvalAI's as lmms-eval 0.7 has it (`lmms_eval/tasks/_task_utils/vqa_eval_metric.py`, from
facebookresearch/mmf), with its quirks, since published numbers rest on them: "5." is "5" but "5.5" stays, "red-hot" is
"red hot" but "red-hot - yes" is "redhot yes", "that's" becomes "that 's" while "thats" becomes "that's". Not copied are
three defects that are no rule: it changes the answers it is given, its table of numbers grows with every word, and only
the first 32 periods of a text are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ENOUGH = 3  # annotators who say the same make an answer right

_COUNT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNT)}
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`!'  # the source's list also holds , and ?, which are gone by then
_PERIOD = re.compile(r"\.(?!\d)")  # the source's look-behind is mistyped and always holds
_FULL_FORMS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
    won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    full[:place] + full[place + 1 :]: full  # written with one apostrophe too few
    for full in _FULL_FORMS.split()
    for place in range(len(full))
    if full[place] == "'"
}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the wrong way round, in the source too


def normalize_answer(text: str) -> str:
    """The form in which answers are compared: lower case, no punctuation, no articles, digits for number words."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How many annotators say what was predicted: the mean of min(matches / 3, 1) over all sets of all but one.

    With the usual 10 answers of which n match, that is min(0.3 n, 1). Where fewer than 3 others are left, all of them
    are enough, and a single answer is compared as it is: so a question's own answer can score 1.

    Raises:
        ValueError: there are no answers.
    """
    if not answers:
        raise ValueError("A question without reference answers cannot be scored; got an empty list. Leave its row out.")
    predicted = normalize_answer(prediction)
    total, matches = len(answers), sum(normalize_answer(answer) == predicted for answer in answers)
    if total == 1:
        return float(matches)
    enough = min(ENOUGH, total - 1)
    left_out_match, left_out_other = min(matches - 1, enough), min(matches, enough)
    return (matches * left_out_match + (total - matches) * left_out_other) / (total * enough)


def _without_punctuation(text: str) -> str:
    stripped = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_space else " ")
    return _PERIOD.sub("", stripped)
