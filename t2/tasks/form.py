"""The form of a task's answers, and how a model is told of it without training: the control of every evaluation.

An expert learns two things at once: to solve a task, and in which form its grader wants the answer. A base model that
is told the form in words, by solved examples, or by the beginning of its own turn shows what the second is worth.
None of the three says how to solve a question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from t2.types import Example


@dataclass(frozen=True)
class Form:
    """What tells a model the form of an answer; a part that is empty says nothing.

    Attributes:
        instruction: a line after the question, such as "Reply with the number only.". Empty where the prompt of the
            task states its form already.
        prefix: how the model's turn begins; `{0}` in it is the group of `pattern` in the question.
        pattern: a regular expression with one group, where the prefix repeats a part of the question.
        stop: strings that end an answer, of every system alike; such as a line break where an answer is one line.
    """

    instruction: str = ""
    prefix: str = ""
    pattern: str | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a pattern that does not compile, has not one group, or that the prefix does not use."""
        object.__setattr__(self, "stop", tuple(self.stop))  # a YAML list arrives as one
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"form.pattern is {self.pattern!r}, which is no regular expression: {error}.") from error
        if groups != 1 or "{0}" not in self.prefix:
            raise ValueError(
                f"form.pattern is {self.pattern!r} and form.prefix {self.prefix!r}; a pattern has one group, and the "
                "prefix holds {0} where it belongs."
            )

    def with_instruction(self, example: Example) -> Example:
        """The example with the instruction after its prompt."""
        return replace(example, prompt=f"{example.prompt}\n{self.instruction}")

    def with_prefix(self, example: Example) -> Example:
        """The example with the model's turn begun; as it is where the pattern is not in its question."""
        if self.pattern is None:
            return replace(example, response_prefix=self.prefix)
        found = re.search(self.pattern, str(example.metadata.get("question", example.prompt)))
        return replace(example, response_prefix=self.prefix.replace("{0}", found[1])) if found else example


IN_PROMPT = Form()  # of a task whose prompts state the form themselves


def with_shots(example: Example, shots: Sequence[Example]) -> Example:
    """The example after `shots`, other questions of its task, solved, as turns of a chat.

    Where a task has worked solutions (`metadata["solution"]`: GSM8K, MATH), these are shown: bare answers would say
    that nothing is to be worked out.
    """
    solved = (replace(one, answer=one.metadata.get("solution", one.answer)) for one in shots)
    turns = ((one.prompt, f"{one.response_prefix}{one.reference_completion}") for one in solved)
    return replace(example, shots=tuple(turns))
