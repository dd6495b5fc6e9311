"""Questions about a passage whose answer is yes or no, such as BoolQ (arXiv 1905.10044).

Long passages can be left out, and yes and no made equally frequent, so that a constant answer scores one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from t2.grading.answers import matching_word
from t2.tasks.form import Form
from t2.tasks.one_file import OneFile
from t2.tasks.row_source import Row
from t2.types import Example

_GOLD: Mapping[str, str] = {"true": "Yes", "yes": "Yes", "false": "No", "no": "No"}


class YesNo(OneFile):
    """Scores a completion 1.0 if the first of Yes and No in it is the gold answer."""

    columns = ("passage", "question", "answer")

    def __init__(
        self,
        name: str,
        form: Form,
        data_files: Mapping[str, str],
        max_passage_chars: int = 600,
        balanced: bool = False,
        **options: Any,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            name: name of the task.
            form: how an answer is to look.
            data_files: path for `all`, the file of all rows.
            max_passage_chars: rows with longer passages are left out.
            balanced: leave out rows at random until Yes and No are equally frequent.
            options: as for `t2.tasks.one_file.OneFile`.
        """
        self._max_chars, self._balanced = max_passage_chars, balanced
        super().__init__(name, form, data_files, **options)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the first Yes or No of `text` is the gold answer, else 0.0."""
        return float(matching_word(text, ("Yes", "No")) == example.answer)

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the score of Yes or No at random."""
        return {"random answer": 0.5}

    def _example(self, row: Row) -> Example | None:
        passage, question = str(row["passage"]).strip(), str(row["question"]).strip().rstrip("? ")
        gold = _GOLD.get(str(row["answer"]).strip().casefold())
        if gold is None or len(passage) > self._max_chars:
            return None
        asked = f"{passage}\n\nQuestion: {question[:1].upper()}{question[1:]}?"
        return Example(asked, gold, metadata={"question": asked, "group": passage})

    def _chosen(self, examples: list[Example]) -> list[Example]:
        if not self._balanced:
            return examples
        by_answer = [[index for index, one in enumerate(examples) if one.answer == word] for word in ("Yes", "No")]
        rarest = min(map(len, by_answer))
        kept = [index for of in by_answer for index in Random(self._seed).sample(of, rarest)]
        return [examples[index] for index in sorted(kept)]
