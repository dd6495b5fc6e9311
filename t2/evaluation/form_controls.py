"""The base model, told the form of an answer without training: in words, by solved examples, by its turn's beginning.

    base+instruction   the form's line after the question
    base+shots         solved questions before it
    base+prefix        the model's turn begun

What an expert gains over the best of these and the base, chosen on validation, is skill; what it gains over the base
alone may be form. The scored examples stay as they are: only what the model reads is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from t2.evaluation.system_names import BASE
from t2.policy.generator import AdaptableGenerator, Generator, StreamingGenerator
from t2.tasks.base import Task
from t2.tasks.form import with_shots
from t2.types import Completion, Example, Sampling

log = logging.getLogger(__name__)
INSTRUCTION, SHOTS, PREFIX = (f"{BASE}+{what}" for what in ("instruction", "shots", "prefix"))


@dataclass(frozen=True)
class Told:
    """A generator whose model reads `rewrite(example)` instead of the example."""

    generator: Generator
    rewrite: Callable[[Example], Example]

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions.

        Raises:
            ValueError: a rewritten example does not fit the context.
        """
        return self.generator.generate([self.rewrite(example) for example in examples], sampling)

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Completions as they are finished, with the number of their example; all at once where that is impossible."""
        told = [self.rewrite(example) for example in examples]
        if isinstance(self.generator, StreamingGenerator):
            return self.generator.stream(told, sampling)
        return enumerate(self.generator.generate(told, sampling))


def form_controls(
    task: Task,
    base: Generator,
    examples: Sequence[Example],
    shots: Sequence[Example],
    *,
    chosen_on: Sequence[Example] = (),
    max_new_tokens: int | None = None,
) -> dict[str, Generator]:
    """The controls of a task by system name, those that its form has and that change what is read of the `examples`.

    `shots` are solved examples that are not among them. As many are shown as the context holds with each example, and
    the log says where that is fewer; so with those that are `chosen_on`, and `max_new_tokens`, of the task by default.
    """
    fitting = _fitting(task, base, [*examples, *chosen_on], shots, max_new_tokens or task.max_new_tokens)
    ways = form_ways(task, examples, fitting)
    return {name: Told(base, way) for name, way in ways.items()}


def form_ways(
    task: Task, examples: Sequence[Example], shots: Sequence[Example]
) -> dict[str, Callable[[Example], Example]]:
    """What the model reads under each control, by system name; of those that change what is read of the `examples`."""
    ways: dict[str, Callable[[Example], Example]] = {}
    if task.form.instruction:
        ways[INSTRUCTION] = task.form.with_instruction
    if shots:
        ways[SHOTS] = partial(with_shots, shots=shots)
    if task.form.prefix:
        ways[PREFIX] = task.form.with_prefix
    return {name: way for name, way in ways.items() if any(way(one) != one for one in examples)}


def _fitting(
    task: Task, base: Generator, examples: Sequence[Example], shots: Sequence[Example], reserve: int
) -> Sequence[Example]:
    """The first shots, as many as fit into the context of the generator's model (all where it has none)."""
    if not shots or not isinstance(base, AdaptableGenerator):
        return shots
    for count in range(len(shots), 0, -1):
        try:
            for example in examples:
                base.lm.encode(with_shots(example, shots[:count]), reserve=reserve)
        except ValueError as error:  # too long
            log.warning("%s: %s shows fewer than %d solved examples: %s", task.name, SHOTS, count, error)
        else:
            return shots[:count]
    return ()
