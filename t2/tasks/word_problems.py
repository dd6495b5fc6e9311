"""Math word problems whose answer is one number, such as ASDiv (arXiv 2106.15772).

An answer column holds a number with or without its unit ("9 apples"). Rows with another answer (a name, a time, a
ratio, two numbers) are left out. `t2.grading.stated_number` reads the completion, as for GSM8K.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from t2.grading.stated_number import stated_number
from t2.tasks.guesses import copied_numbers
from t2.tasks.one_file import OneFile
from t2.tasks.row_source import Row
from t2.types import Example

_ANSWER = re.compile(r"(-?[0-9][0-9,]*(?:\.[0-9]+)?)(?: [^0-9;]*)?")


class WordProblems(OneFile):
    """Scores a completion 1.0 if the number that it states equals the gold answer."""

    columns = ("passage", "question", "answer")

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the number that `text` states equals the gold answer exactly, else 0.0.

        A turn that was begun ("The answer is") says which number is meant.
        """
        return float(stated_number(example.response_prefix + text) == Fraction(str(example.answer)))

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the scores of guesses that copy a number of the question."""
        return copied_numbers(example.prompt, Decimal(str(example.answer)))

    def _example(self, row: Row) -> Example | None:
        passage, question = str(row["passage"]).strip(), str(row["question"]).strip()
        number = _ANSWER.fullmatch(str(row["answer"]).strip())
        if number is None:
            return None
        problem, group = f"{passage} {question}".strip(), passage or question
        return Example(problem, number[1].replace(",", ""), metadata={"question": problem, "group": group})
