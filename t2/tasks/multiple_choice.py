"""Multiple-choice questions with their options in one column: OpenBookQA, CommonsenseQA, PIQA, SIQA and the like.

A row's `options` are lines "A. TEXT", its `answer` one of them; a `passage` may precede the question. Rows whose answer
is none of the options are left out, as are those whose options do not differ. The model is asked for the letter or for
the text of an option, of which a full stop at the end is no part. Scoring options by their log-likelihood is not
offered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from t2.grading.answers import matching_word
from t2.grading.choice import choice_letter
from t2.run.messages import check_choice
from t2.tasks.form import Form
from t2.tasks.one_file import OneFile
from t2.tasks.row_source import Row
from t2.types import Example

Ask = Literal["letter", "text"]
LETTERS = "ABCDEFGHIJ"
INSTRUCTIONS: Mapping[Ask, str] = {
    "letter": "Reply with the letter of an option only.",
    "text": "Reply with one of the options only.",
}
_OPTION = re.compile(r"^[A-J]\. ?(.*)$", re.MULTILINE)


class MultipleChoice(OneFile):
    """Scores a completion 1.0 if it chooses the gold option."""

    columns = ("question", "options", "answer")

    def __init__(
        self, name: str, form: Form, data_files: Mapping[str, str], ask: Ask = "letter", **options: Any
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            name: name of the task.
            form: how an answer is to look; one of `INSTRUCTIONS` becomes that of `ask`.
            data_files: path for `all`, the file of all rows.
            ask: `letter` shows options as A, B, ... and wants the letter; `text` lists them and wants the first option
                that the completion names to be the gold one.
            options: as for `t2.tasks.one_file.OneFile`.

        Raises:
            ValueError: `ask` is unknown.
        """
        check_choice(f"ask of {name}", ask, get_args(Ask))
        self._ask = ask
        if form.instruction in INSTRUCTIONS.values():
            form = replace(form, instruction=INSTRUCTIONS[ask])
        super().__init__(name, form, data_files, **options)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if `text` chooses the gold option, else 0.0."""
        options: Sequence[str] = example.metadata["options"]
        if self._ask == "letter":
            return float(choice_letter(text, LETTERS[: len(options)]) == example.answer)
        named = matching_word(text, [_bare(option) for option in options])
        return float(named is not None and named == _bare(str(example.answer)))

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the score of choosing an option at random, and of the first and the last option."""
        options = example.metadata["options"]
        gold = LETTERS.index(str(example.answer)) if self._ask == "letter" else options.index(str(example.answer))
        return {
            "random option": 1 / len(options),
            "first option": float(gold == 0),
            "last option": float(gold == len(options) - 1),
        }

    def _example(self, row: Row) -> Example | None:
        passage, question = str(row.get("passage") or "").strip(), str(row["question"]).strip()
        options = tuple(" ".join(option.split()) for option in _OPTION.findall(str(row["options"])))
        answer = " ".join(_OPTION.sub(r"\1", str(row["answer"]).strip()).split())
        known = {(_bare(option) if self._ask == "text" else option).casefold() for option in options}
        if answer not in options or not 2 <= len(known) == len(options) <= len(LETTERS) or "" in known:
            return None
        asked = f"{passage}\n{question}".strip()
        marks = [f"{letter}. " if self._ask == "letter" else "- " for letter in LETTERS]
        shown = "\n".join(f"{mark}{option}" for mark, option in zip(marks, options, strict=False))
        return Example(
            prompt=f"{asked}\nOptions:\n{shown}",
            answer=LETTERS[options.index(answer)] if self._ask == "letter" else answer,
            metadata={"question": asked, "options": options, "group": passage or question},
        )


def _bare(option: str) -> str:
    """The option without the full stop at its end, which an answer that names it may leave out."""
    return option.rstrip(" .")
