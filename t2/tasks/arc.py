"""ARC: grade-school science questions with three to five options (arXiv 1803.05457, hub `allenai/ai2_arc`).

`official` copies the paper's code (SakanaAI/self-adaptive-llms, commit 03a41ae): even rows of the hub's
train split train, odd ones validate; three regular expressions read the letter, and a text without one gets
a seeded random option; the gold is the raw `answerKey`, so a question whose options are labeled 1 to 4 can
never be right. `fixed` uses the hub's validation split, maps the gold to the letter shown, and a text that
chooses nothing is wrong. The messages to the model are the same, but for the official response prefix.
Options are always shown as A, B, C, ... Log-likelihood scoring of the options is not offered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any, Literal, get_args

from t2.grading.answers import choice_letter
from t2.run.messages import check_choice
from t2.tasks.base import Split
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits
from t2.types import Example

Config = Literal["ARC-Easy", "ARC-Challenge"]
ProtocolName = Literal["fixed", "official"]

SYSTEM = (
    "The following are multiple choice questions (with answers). Think step by step and then finish your "
    'answer with "the answer is (X)" where X is the correct letter choice.'
)
OFFICIAL_RESPONSE_PREFIX = "Let's think step by step"
LETTERS = "ABCDEFGHIJ"
_ANSWER_IS = re.compile(r"answer is \(?([A-J])\)?")
_ANSWER_COLON = re.compile(r"[aA]nswer:(?=\s*([A-J]))")
_ALONE = re.compile(r"\b[A-J]\b")


class ARC:
    """Multiple choice, right if the chosen letter is."""

    def __init__(
        self,
        config: Config = "ARC-Easy",
        protocol: ProtocolName = "fixed",
        data_files: Mapping[str, str] | None = None,
        limit: int | None = None,
        max_new_tokens: int = 512,
        name: str | None = None,
    ) -> None:
        """`data_files` needs `train`, `test` and, for `fixed`, `validation`."""
        check_choice("config of arc", config, get_args(Config))
        check_choice("protocol of arc", protocol, get_args(ProtocolName))
        self.name = name or config.lower().replace("-", "_")
        self.max_new_tokens = max_new_tokens
        self._protocol = protocol
        self._source = RowSource("allenai/ai2_arc", config, data_files, self.name)
        self._splits = DisjointSplits(self.name, self._build, limit)

    def split(self, split: Split) -> Sequence[Example]:
        """The examples of a split; `metadata["options"]` are the texts of the options, `id` names the row."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """1.0 if the letter the text chooses is the gold, else 0.0."""
        letters = LETTERS[: len(example.metadata["options"])]
        if self._protocol == "official":
            return float(_official_letter(text, letters) == example.answer)
        return float(choice_letter(text, letters) == example.answer)

    def about(self) -> dict[str, Any]:
        """The protocol, and source, version and fingerprint of what was read."""
        return {"protocol": self._protocol, **self._source.describe()}

    def _build(self, split: Split) -> list[Example]:
        if split == "test":
            rows = self._rows("test")
        elif self._protocol == "official":
            rows = self._train_rows[0 if split == "train" else 1 :: 2]
        else:
            rows = self._train_rows if split == "train" else self._rows("validation")
        return [self._example(row) for row in rows]

    @cached_property
    def _train_rows(self) -> Sequence[Row]:
        return list(self._rows("train"))

    def _rows(self, split: str) -> Sequence[Row]:
        return self._source.rows(split, ("question", "choices", "answerKey"))

    def _example(self, row: Row) -> Example:
        question, key = str(row["question"]), str(row["answerKey"])
        options, labels = _options(row["choices"], question)
        if key not in labels:
            raise ValueError(f"answerKey is {key!r}; the labels are {labels} for the question {question[:60]!r}.")
        official = self._protocol == "official"
        shown = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=False))
        named = {"id": str(row["id"])} if "id" in row else {}
        return Example(
            prompt=f"{question}\nOptions:\n{shown}",
            answer=key if official else LETTERS[labels.index(key)],
            system=SYSTEM,
            response_prefix=OFFICIAL_RESPONSE_PREFIX if official else "",
            metadata={"question": question, "options": tuple(options), **named},
        )


def _options(choices: object, question: str) -> tuple[list[str], list[str]]:
    """The texts and labels of a row's `choices` column.

    Raises:
        ValueError: it is not {"text": [...], "label": [...]} with 2 to 10 entries each.
    """
    parts = [choices.get(part) if isinstance(choices, Mapping) else None for part in ("text", "label")]
    texts, labels = ([str(entry) for entry in part] if isinstance(part, list) else [] for part in parts)
    if not (2 <= len(texts) <= len(LETTERS) and len(texts) == len(labels)):
        raise ValueError(
            f"choices of the question {question[:60]!r} is {str(choices)[:120]}; "
            '{"text": [...], "label": [...]} with 2 to 10 entries each is needed.'
        )
    return texts, labels


def _official_letter(text: str, letters: str) -> str:
    """The three extractions of the official code, in its order; each is written to take linear time."""
    if found := _ANSWER_IS.search(text):
        return found[1]
    # `.*[aA]nswer:\s*([A-J])`: the last statement on the first line that has one.
    stated = list(_ANSWER_COLON.finditer(text))
    if stated:
        line_end = text.find("\n", stated[0].start())
        on_line = [match for match in stated if line_end < 0 or match.start() < line_end]
        return on_line[-1][1]
    if alone := _ALONE.findall(text):
        return str(alone[-1])
    # The official code seeds the global generator here; the same draw from a generator of our own.
    return Random(42).choice(letters)
