"""Soft accuracy of short answers about images, the metric of TextVQA and OK-VQA.

Answers are normalized as by EvalAI in lmms-eval 0.7 (`lmms_eval/tasks/_task_utils/vqa_eval_metric.py`, from
facebookresearch/mmf), quirks included, since published numbers depend on them: "5." becomes "5" but "5.5" stays,
"red-hot" becomes "red hot" but "red-hot - yes" becomes "redhot yes", "that's" becomes "that 's" while "thats" becomes
"that's". An answer of which nothing is left ("a", "?", ".") is compared as it is, where EvalAI takes all of these for
equal, and no text is never an answer. Three bugs are not copied: it modifies its arguments, its table of numbers grows
with every word, and it looks at the first 32 periods of a text only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ENOUGH = 3  # annotators with the same answer for full accuracy

_COUNT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNT)}
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`!'  # the source's list also has , and ?, which are removed before
_PERIOD = re.compile(r"\.(?!\d)")  # the source's look-behind has a typo and always matches
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
    full[:index] + full[index + 1 :]: full  # one apostrophe is missing
    for full in _FULL_FORMS.split()
    for index in range(len(full))
    if full[index] == "'"
}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # reversed in the source, too


def normalize_answer(text: str) -> str:
    """Normalizes an answer for comparison: lower case, no punctuation, no articles, digits for number words."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def compared_form(text: str) -> str:
    """Normalizes an answer; one of which nothing is left, such as "a" or "?", stays as it is in lower case."""
    return normalize_answer(text) or " ".join(text.lower().split())


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Computes the VQA accuracy: the mean of min(matches / 3, 1) over all sets of annotators that leave one out.

    With the usual 10 answers, of which n match, this is min(0.3 n, 1). With fewer than 4 answers, all that remain must
    match instead of 3, and a single answer is compared directly, so that an answer of all annotators scores 1.

    Args:
        prediction: the predicted answer.
        answers: the reference answer of each annotator.

    Raises:
        ValueError: there are no reference answers.
    """
    if not answers:
        raise ValueError("A question without reference answers cannot be scored; got an empty list. Leave its row out.")
    predicted = compared_form(prediction)
    total, matches = len(answers), sum(compared_form(answer) == predicted != "" for answer in answers)
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
