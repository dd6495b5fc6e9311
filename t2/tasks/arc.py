"""ARC: grade-school science questions with three to five options (arXiv 1803.05457; hub `allenai/ai2_arc`).

Options are shown as A, B, C, ... and the gold answer is the letter shown, whatever the label in the row. The paper's
code (SakanaAI/self-adaptive-llms, commit 03a41ae) keeps the label, so that questions labeled 1 to 4 are never right,
begins the response with "Let's think step by step", takes the last letter where none follows "answer is" or "answer:",
and a random option where a completion names none. `t2.grading.choice` says how a letter is read here. Scoring options
by their log-likelihood is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from pydantic import PositiveInt

from t2.grading.choice import choice_letter
from t2.run.messages import check_choice
from t2.tasks.base import Split
from t2.tasks.form import IN_PROMPT
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits, SplitRule
from t2.types import Example

Config = Literal["ARC-Easy", "ARC-Challenge"]

SYSTEM = (
    "The following are multiple choice questions (with answers). Think step by step and then finish your "
    'answer with "the answer is (X)" where X is the correct letter choice.'
)
LETTERS = "ABCDEFGHIJ"


class ARC:
    """Scores a completion 1.0 if the letter that it chooses is the gold answer."""

    form = IN_PROMPT

    def __init__(
        self,
        config: Config = "ARC-Easy",
        splits: SplitRule = "t2",
        data_files: Mapping[str, str] | None = None,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 512,
        name: str | None = None,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            config: the configuration of the hub's data set.
            splits: `t2` uses the hub's validation split; `paper` trains on the even rows of the hub's train split and
                validates on the odd ones.
            data_files: paths for `train`, `test` and, with `splits="t2"`, `validation`, read instead of the hub.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.
            name: None for `arc_easy` or `arc_challenge`.

        Raises:
            ValueError: `config` or `splits` is unknown.
        """
        check_choice("config of arc", config, get_args(Config))
        self.name = name or config.lower().replace("-", "_")
        check_choice(f"splits of {self.name}", splits, get_args(SplitRule))
        self.max_new_tokens = max_new_tokens
        self._split_rule = splits
        self._source = RowSource(
            "allenai/ai2_arc", config, data_files, self.name, splits=("train", "validation", "test")
        )
        self._splits = DisjointSplits(self.name, self._build, limit)

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split; `metadata["options"]` are the options' texts, `id` is the row's."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the letter that `text` chooses is the gold answer, else 0.0."""
        letters = LETTERS[: len(example.metadata["options"])]
        return float(choice_letter(text, letters) == example.answer)

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the score of choosing an option at random."""
        return {"random option": 1 / len(example.metadata["options"])}

    def about(self) -> dict[str, Any]:
        """Describes the split rule, and the source, version and fingerprint of the splits read so far."""
        return {"split_rule": self._split_rule, **self._source.describe()}

    def _build(self, split: Split) -> list[Example]:
        if split == "test":
            rows = self._rows("test")
        elif self._split_rule == "paper":
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
        shown = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=False))
        row_id = {"id": str(row["id"])} if "id" in row else {}
        return Example(
            prompt=f"{question}\nOptions:\n{shown}",
            answer=LETTERS[labels.index(key)],
            system=SYSTEM,
            metadata={"question": question, "options": tuple(options), **row_id},
        )


def _options(choices: object, question: str) -> tuple[list[str], list[str]]:
    """Returns the texts and labels of a row's `choices` column.

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
