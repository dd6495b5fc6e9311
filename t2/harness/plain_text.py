"""A language model whose prompts are texts as they stand: without a chat template, as lm-evaluation-harness gives them.

A text that was made with the chat template holds its special tokens already. Not done here: anything but tokenizing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields

from t2.models.language_model import LanguageModel
from t2.types import Example

log = logging.getLogger(__name__)


@dataclass
class PlainText(LanguageModel):
    """The same model; `encode` takes the prompt of an example for the whole text before the completion."""

    cuts: int = 0  # texts that lost their beginning

    @classmethod
    def of(cls, lm: LanguageModel) -> PlainText:
        """The same weights and tokenizer."""
        other = cls(**{field.name: getattr(lm, field.name) for field in fields(LanguageModel) if field.init})
        other.end_ids, other.context_length = lm.end_ids, lm.context_length
        return other

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a text, after BOS where the tokenizer puts one before every text and it has none yet."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self._bos() if special else []
        return ids if bos == ids[: len(bos)] else bos + ids

    def encode(self, example: Example, reserve: int = 0) -> list[int]:
        """The prompt alone, as a text; the end of it where it does not fit, as lm-evaluation-harness cuts.

        Raises:
            ValueError: `reserve` leaves no room for a prompt.
        """
        return self.cut(self.ids(example.prompt), self.context_length - reserve)

    def cut(self, ids: Sequence[int], room: int) -> list[int]:
        """The last `room` tokens; the log says the first time that something is left out.

        Raises:
            ValueError: there is no room.
        """
        if room < 1:
            raise ValueError(
                f"The context of {self.source} is {self.context_length} tokens, and the answer alone takes as many. "
                "Lower max_gen_toks (--gen_kwargs max_gen_toks=64)."
            )
        if len(ids) > room:
            self.cuts += 1
            if self.cuts == 1:
                log.warning(
                    "A text of %d tokens does not fit and loses its beginning: the context of %s leaves %d. Said once.",
                    len(ids), self.source, room,
                )  # fmt: skip
        return list(ids[-room:])
