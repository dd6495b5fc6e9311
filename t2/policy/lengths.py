"""Whether the examples of a split fit a model's context window, checked before the first of them is used.

Not done here: shortening prompts; a task decides what its rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from t2.models.language_model import LanguageModel
from t2.policy.reference import encode_reference
from t2.types import Example


def check_prompts(lm: LanguageModel, rows: Mapping[int, Example], what: str, *, max_new_tokens: int) -> None:
    """Raise ValueError where a prompt and `max_new_tokens` exceed the context, with the row's number and length.

    `rows` are examples by their number, and `what` names them in the message, such as "the train split of gsm8k".
    """
    _check(rows, what, lambda example: lm.encode(example, reserve=max_new_tokens))


def check_references(lm: LanguageModel, rows: Mapping[int, Example], what: str) -> None:
    """Raise ValueError where a prompt and its reference answer exceed the context, or there is no answer."""
    _check(rows, what, lambda example: encode_reference(lm, example, end_of_turn=True))


def _check(rows: Mapping[int, Example], what: str, encode: Callable[[Example], object]) -> None:
    refused: dict[int, ValueError] = {}
    for number, example in rows.items():
        try:
            encode(example)
        except ValueError as error:
            refused[number] = error
    if refused:
        number, reason = next(iter(refused.items()))
        others = f" So it is with {len(refused) - 1} more of {len(rows)} rows." if len(refused) > 1 else ""
        raise ValueError(f"Row {number} of {what} is not usable: {reason}{others}") from reason
