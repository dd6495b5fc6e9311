"""Reference answers as completions, for supervised fine-tuning.

Nothing is sampled: the log-probs of these completions are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from t2.models.language_model import LanguageModel
from t2.types import Completion, Example, Sampling


class ReferenceAnswers:
    """A generator whose completions are the reference answers and the token that ends a turn."""

    def __init__(self, lm: LanguageModel) -> None:
        """Keep the model, whose tokenizer is used."""
        self.lm = lm

    def for_rows(self, numbers: range, total: int) -> ReferenceAnswers:
        """Itself: no answer depends on others."""
        return self

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of one completion; `sampling` is ignored.

        Raises:
            ValueError: an example without a reference answer, or one that does not fit the context.
        """
        return [[encode_reference(self.lm, example, end_of_turn=True)] for example in examples]


def continuation_ids(lm: LanguageModel, text: str) -> list[int]:
    """The token ids of a text that follows another one.

    A tokenizer of SentencePiece's kind puts a space before what it takes for the beginning of a text, which nobody
    wrote here: the text is encoded behind a line break, where that is a token of its own.
    """
    encode = partial(lm.tokenizer, add_special_tokens=False)
    before: list[int] = encode("\n")["input_ids"]
    ids: list[int] = encode("\n" + text)["input_ids"]
    return ids[len(before) :] if ids[: len(before)] == before else list(encode(text)["input_ids"])


def encode_reference(lm: LanguageModel, example: Example, end_of_turn: bool = False) -> Completion:
    """The reference answer as a completion, as it follows the response prefix.

    Raises:
        ValueError: there is no answer, it has no token, or it does not fit the context.
    """
    text = example.reference_completion
    if not text:
        raise ValueError(f"The example {example.prompt[:60]!r} has no reference answer, and one is needed here.")
    if example.response_prefix:
        ids = continuation_ids(lm, text)
    else:  # behind a template, of which those of SentencePiece's kind have the space that begins a text
        ids = list(lm.tokenizer(text, add_special_tokens=False)["input_ids"])
    if end_of_turn:
        if lm.end_of_turn_id is None:
            raise ValueError(f"The tokenizer of {lm.source} names no token that ends a turn.")
        ids = [*ids, lm.end_of_turn_id]
    prompt = lm.encode(example, reserve=len(ids))
    return Completion(tuple(prompt), tuple(ids), (0.0,) * len(ids), text, "stop", example.images)
