"""Tasks for tests: one that grades, groups and documents, and one for adaptation with its support examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conftest import LetterTask

from t2.tasks.base import Split
from t2.tasks.form import IN_PROMPT, Form
from t2.types import Example, Grade


@dataclass(frozen=True)
class GradedLetters(LetterTask):
    """Letters in any share count as right in part; an answer without any is `empty`."""

    name: str = "graded"
    data_set: str = "Letters"

    def split(self, split: Split) -> Sequence[Example]:
        return [
            Example(
                prompt=example.prompt,
                answer=example.answer,
                system="Letters, please.",
                metadata={
                    "id": f"{self.data_set}/{number}",
                    "groups": {"parity": ("even", "odd")[number % 2], "level": str(number % 3)},
                },
            )
            for number, example in enumerate(super().split(split))
        ]

    def grade(self, example: Example, text: str) -> Grade:
        letters = "".join(letter for letter in text if "a" <= letter <= "z")
        score = super().score(example, text)
        reason = None if score == 1.0 else "partly" if letters else "empty"
        return Grade(score, reason, letters or None)

    def score(self, example: Example, text: str) -> float:
        return self.grade(example, text).score

    def about(self) -> Mapping[str, Any]:
        return {"protocol": "letters", "splits": {"test": {"rows": 12, "share": float("nan")}}}


SUPPORT = [Example("one", "abc"), Example("a longer question", "ha"), Example("two", "x" * 9), Example("q", "no")]


@dataclass(frozen=True)
class OneLetter:
    """Full score for a completion with the given letter somewhere in it, half for a capital one."""

    letter: str = "e"
    name: str = "letters"
    max_new_tokens: int = 12
    form: Form = IN_PROMPT

    def split(self, split: Split) -> Sequence[Example]:
        return SUPPORT

    def score(self, example: Example, text: str) -> float:
        return 1.0 if self.letter in text else 0.5 * (self.letter.upper() in text)
