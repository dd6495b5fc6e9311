"""Questions about a passage: with yes or no as the answer (BoolQ), or words of the passage (SQuAD, Disfl-QA).

Long passages can be left out, and yes and no made equally frequent, so that a constant answer scores one half. Of
spans, the completion's first line is compared as in SQuAD's exact match: case, punctuation and articles aside. SQuAD's
F1 is not offered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from typing import Any, Literal, get_args

from t2.grading.answers import first_line, matching_word
from t2.run.messages import check_choice
from t2.tasks.form import Form
from t2.tasks.one_file import OneFile
from t2.tasks.row_source import Row
from t2.types import Example

Ask = Literal["yes_no", "span"]
YES_NO: Mapping[str, str] = {"true": "Yes", "yes": "Yes", "false": "No", "no": "No"}
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


class Reading(OneFile):
    """Scores a completion 1.0 if it answers the question about its passage."""

    columns = ("passage", "question", "answer")

    def __init__(
        self,
        name: str,
        form: Form,
        data_files: Mapping[str, str],
        ask: Ask,
        max_passage_chars: int = 600,
        balanced: bool = False,
        **options: Any,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            name: name of the task.
            form: how an answer is to look.
            data_files: path for `all`, the file of all rows.
            ask: `yes_no`: the first Yes or No counts; `span`: the first line must be the gold words.
            max_passage_chars: rows with longer passages are left out.
            balanced: leave out rows at random until each answer is as frequent as the rarest.
            options: as for `t2.tasks.one_file.OneFile`.

        Raises:
            ValueError: `ask` is unknown, or `balanced` is set for spans.
        """
        check_choice(f"ask of {name}", ask, get_args(Ask))
        if balanced and ask == "span":
            raise ValueError(f"{name}: balanced=true is for ask=yes_no; spans are nearly all different.")
        self._ask, self._max_chars, self._balanced = ask, max_passage_chars, balanced
        super().__init__(name, form, data_files, **options)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if `text` gives the gold answer, else 0.0."""
        if self._ask == "yes_no":
            return float(matching_word(text, ("Yes", "No")) == example.answer)
        return float(_normal(first_line(text)) == _normal(str(example.answer)))

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the score of Yes or No at random; nothing for spans."""
        return {"random answer": 0.5} if self._ask == "yes_no" else {}

    def _example(self, row: Row) -> Example | None:
        passage, question = str(row["passage"]).strip(), str(row["question"]).strip()
        answer = str(row["answer"]).strip()
        if self._ask == "yes_no":
            answer = YES_NO.get(answer.casefold(), "")
            question = f"{question[:1].upper()}{question[1:].rstrip('?')}?"
        elif not _normal(answer) or answer not in passage:
            return None
        if not answer or len(passage) > self._max_chars:
            return None
        asked = f"{passage}\n\nQuestion: {question}"
        return Example(asked, answer, metadata={"question": asked, "group": passage})

    def _chosen(self, examples: list[Example]) -> list[Example]:
        if not self._balanced:
            return examples
        by_answer: dict[str, list[int]] = {}
        for index, one in enumerate(examples):
            by_answer.setdefault(str(one.answer), []).append(index)
        rarest = min(map(len, by_answer.values()), default=0)
        kept = [index for of in by_answer.values() for index in Random(self._seed).sample(of, rarest)]
        return [examples[index] for index in sorted(kept)]


def _normal(text: str) -> str:
    return " ".join(_ARTICLE.sub(" ", _PUNCTUATION.sub(" ", text.casefold())).split())
