"""Scores systems on the same examples of one or more tasks: what evaluate.py and the adaptation callback do.

What the configuration alone can get wrong is found when a `Benchmark` is made, before a model is loaded. Support
examples, which strategies are fitted to, are never of the test split nor among the examples that are scored.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

from t2.adaptation.few_shot import check_disjoint
from t2.adaptation.two_pass import call_seed
from t2.evaluation.form_controls import form_controls
from t2.evaluation.outcome import fit, model_of, outcome_of
from t2.evaluation.report import Outcome
from t2.evaluation.results import Selection
from t2.evaluation.scoring import check_workers, evaluate
from t2.evaluation.selection import Controls, select
from t2.evaluation.system_names import BASE, is_scored, support_set
from t2.experts.pool import ExpertPool
from t2.models.forward_tokens import count_forward_tokens
from t2.models.language_model import LanguageModel
from t2.policy.generator import Generator
from t2.policy.lengths import check_prompts
from t2.run.messages import did_you_mean
from t2.tasks.base import Split, Task, check_task, greedy
from t2.types import OTHER, Example, Sampling

log = logging.getLogger(__name__)


class Benchmark:
    """Tasks, and by task the examples that are scored, the sets of support examples and the sampling.

    Args:
        tasks: of different names.
        split: where the scored examples are from; the first `limit` of it.
        shots: support examples of each task, from `support_split` in an order that `seed` decides.
        support_sets: how often they are drawn; a strategy is fitted to each set.
        domains: task -> the domain of its prompts, None to leave it out of confusion matrices; None: no matrices.
        controls: settings of the form controls; None: only the systems that are given.
        sampling: by task; greedy completions of the task's own length if not given.
        workers: threads that grade.

    Raises:
        ValueError: no task or two of one name, a number outside its range, or support examples that cannot be drawn.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        split: Split,
        limit: int | None = None,
        shots: int = 0,
        support_split: Split = "train",
        support_sets: int = 1,
        seed: int = 0,
        domains: Mapping[str, str | None] | None = None,
        controls: Controls | None = None,
        sampling: Mapping[str, Sampling] | None = None,
        workers: int = 2,
    ) -> None:
        """Read the examples and draw the support."""
        check_workers(workers)
        for task in tasks:
            check_task(task)
        names = [task.name for task in tasks]
        if not tasks or len(set(names)) < len(names):
            raise ValueError(f"The benchmarks are {', '.join(names) or 'empty'}. Name one task or more, each once.")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; allowed: at least 1, or null for all examples.")
        self.tasks, self.domains, self.workers = tasks, domains, workers
        self.split, self.limit, self.controls = split, limit, controls
        self.sampling = sampling or {task.name: greedy(task) for task in tasks}
        self.examples = {task.name: task.split(split)[:limit] for task in tasks}
        if support_sets < 1:
            raise ValueError(f"support_sets is {support_sets}; allowed: at least 1.")
        self.supports = {
            task.name: [
                choose_support(task, shots=shots, split=support_split, seed=of, scored=self.examples[task.name])
                for of in (call_seed(seed, number) for number in range(support_sets))
            ]
            for task in tasks
        }
        self.shown = {task.name: self._shown(task, seed) for task in tasks}  # in the prompt of base+shots

    def _shown(self, task: Task, seed: int) -> Sequence[Example]:
        if self.controls is None or not self.controls.shots or any(one.images for one in self.examples[task.name][:1]):
            return ()
        try:
            known = len(task.split("train"))
        except ValueError as error:
            log.info("%s: base+shots is left out, since there are no solved examples to show: %s", task.name, error)
            return ()
        shots = min(self.controls.shots, known)
        return choose_support(task, shots=shots, split="train", seed=seed, scored=self.examples[task.name])

    @property
    def solved(self) -> dict[str, list[Example]]:
        """By task, the support examples of all sets."""
        return {task: [one for of in sets for one in of] for task, sets in self.supports.items()}

    def systems_of(self, task: Task, systems: Mapping[str, Generator]) -> dict[str, Generator]:
        """The systems, with the base's form controls on this task after the base."""
        if self.controls is None:
            return dict(systems)
        told = form_controls(task, systems[BASE], self.examples[task.name], self.shown[task.name])
        return {BASE: systems[BASE], **told, **systems}

    def check_lengths(self, lm: LanguageModel) -> None:
        """Raise ValueError where a scored example, told its form or not, does not fit the model: before any is run."""
        for task in self.tasks:
            what, reserve = f"the {self.split} split of {task.name}", self.sampling[task.name].max_new_tokens
            scored = dict(enumerate(self.examples[task.name], start=1))
            check_prompts(lm, scored, what, max_new_tokens=reserve)
            if self.controls is not None and task.form.instruction:
                told = {number: task.form.with_instruction(one) for number, one in scored.items()}
                check_prompts(lm, told, f"{what}, with its instruction,", max_new_tokens=reserve)

    def select(self, systems: Mapping[str, Generator]) -> dict[str, Selection]:
        """By task, the best form control and the best single expert on validation; empty without controls.

        Raises:
            ValueError: what `evaluate` refuses.
        """
        if self.controls is None:
            return {}
        return {
            task.name: select(
                task,
                self.systems_of(task, systems),
                self.sampling[task.name],
                scored=self.examples[task.name],
                split=self.split,
                limit=self.controls.chosen_on(self.limit),
                workers=self.workers,
            )
            for task in self.tasks
        }

    def true_domains(self, labels: Sequence[str]) -> dict[str, str]:
        """Task -> its domain, of the tasks that have one; empty without `domains`.

        Raises:
            ValueError: a task is not among the domains, or its domain is not one of `labels`.
        """
        if self.domains is None:
            return {}
        found = {}
        for task in self.examples:
            if task not in self.domains:
                raise ValueError(
                    f"{task!r} is a benchmark without a domain: benchmark_domains has {', '.join(self.domains)}."
                    f"{did_you_mean(task, self.domains)} Add benchmark_domains.{task} with one of {', '.join(labels)}, "
                    "or null to leave it out of the matrix."
                )
            domain = self.domains[task]
            if domain is None:
                continue
            if domain not in labels:
                allowed = f"{', '.join(labels)}.{did_you_mean(domain, labels)}"
                raise ValueError(f"benchmark_domains.{task} is {domain!r}; allowed: {allowed}")
            found[task] = domain
        return found

    def run(
        self,
        systems: Mapping[str, Generator],
        *,
        domains: Mapping[str, str] | None = None,
        known: Sequence[Outcome] = (),
        left_out: Mapping[str, Sequence[str]] | None = None,
    ) -> list[Outcome]:
        """Score every system on every task; strategies are fitted to the task's support first.

        `domains` are the `true_domains` of tasks, outcomes that are `known` are not measured again, and systems that
        are `left_out` of a task not at all.

        Raises:
            ValueError: a strategy cannot use the support or the pool, or what `evaluate` refuses.
        """
        measured = {(outcome.report.task, outcome.report.system): outcome for outcome in known}
        outcomes = []
        for task in self.tasks:
            for system, generator in self.systems_of(task, systems).items():
                left = system in (left_out or {}).get(task.name, ())
                if left or not is_scored(system, (domains or {}).get(task.name)):
                    continue
                outcome = measured.get((task.name, system))
                if outcome is None:
                    fitted = fit(generator, task, self.supports[task.name][support_set(system) - 1])
                    examples, sampling = self.examples[task.name], self.sampling[task.name]
                    with count_forward_tokens(model_of(generator)) as tokens:
                        report = evaluate(generator, task, examples, sampling, system=system, workers=self.workers)
                    outcome = outcome_of(report, generator, *fitted, tokens.count)
                    log.info("%s, %s: %.1f %%", task.name, system, 100 * report.mean)
                outcomes.append(outcome)
        return outcomes


def choose_support(
    task: Task, *, shots: int, split: Split, seed: int, scored: Sequence[Example]
) -> tuple[Example, ...]:
    """The first `shots` solved examples of a split in an order that the seed decides; fewer are the first of more.

    Raises:
        ValueError: the test split, more shots than examples, or a support example among the `scored` ones.
    """
    if shots < 0:
        raise ValueError(f"shots is {shots}; allowed: 0 (no support examples) and above.")
    if split == "test":
        raise ValueError("support_split=test: support examples are in nobody's test set. Use train or val.")
    if shots == 0:
        return ()
    examples = list(task.split(split))
    if shots > len(examples):
        raise ValueError(
            f"shots={shots}, and the {split} split of {task.name} has {len(examples)} examples. Lower shots, or give "
            "the task a larger split."
        )
    random.Random(f"{seed} {task.name}").shuffle(examples)
    support = tuple(examples[:shots])
    check_disjoint(support, scored)
    return support


def labels_of(pool: ExpertPool) -> tuple[str, ...]:
    """What a dispatching strategy chooses from: the pool's domains, and `other` for the base."""
    return (*pool.domains, OTHER)


def tasks_of(benchmarks: Mapping[str, Any], only: str | None = None) -> list[Task]:
    """The tasks of a benchmark set of the configuration, where `benchmark_domains` may be among them.

    Raises:
        ValueError: `only` is none of them.
    """
    tasks = {name: task for name, task in benchmarks.items() if name != "benchmark_domains"}
    if only is not None and only not in tasks:
        raise ValueError(f"only={only}; the set has {', '.join(tasks)}.{did_you_mean(only, tasks)}")
    return [task for name, task in tasks.items() if only in (None, name)]
