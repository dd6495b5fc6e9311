"""Scores systems on the same examples of one or more tasks: what evaluate.py and the adaptation callback do.

What the configuration alone can get wrong is found when a `Benchmark` is made, before a model is loaded. Support
examples, which strategies are fitted to, are never of the test split nor among the examples that are scored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from t2.adaptation.two_pass import call_seed
from t2.evaluation.form_controls import form_controls
from t2.evaluation.outcome import fit, model_of, outcome_of
from t2.evaluation.report import Outcome
from t2.evaluation.results import Selection
from t2.evaluation.scoring import check_workers, evaluate
from t2.evaluation.selection import Controls, select, validation_of
from t2.evaluation.solved_examples import choose_shown, choose_support
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
        asked = 0 if controls is None else controls.shots
        self.shown = {  # in the prompt of base+shots
            task.name: choose_shown(task, shots=asked, seed=seed, scored=self.examples[task.name]) for task in tasks
        }

    @property
    def solved(self) -> dict[str, list[Example]]:
        """By task, the support examples of all sets."""
        return {task: [one for of in sets for one in of] for task, sets in self.supports.items()}

    def systems_of(self, task: Task, systems: Mapping[str, Generator]) -> dict[str, Generator]:
        """The systems, with the base's form controls on this task after the base."""
        if self.controls is None:
            return dict(systems)
        told = form_controls(
            task, systems[BASE], self.examples[task.name], self.shown[task.name],
            chosen_on=self._chosen_on(task), max_new_tokens=self.sampling[task.name].max_new_tokens,
        )  # fmt: skip
        return {BASE: systems[BASE], **told, **systems}

    def check_lengths(self, lm: LanguageModel) -> None:
        """Raise ValueError where an example that is scored or chosen on, told its form or not, does not fit the model.

        That is before any is run.
        """
        for task in self.tasks:
            reserve, form = self.sampling[task.name].max_new_tokens, task.form
            told = {"instruction": form.with_instruction} if form.instruction and self.controls is not None else {}
            told |= {"prefix": form.with_prefix} if form.prefix and self.controls is not None else {}
            for split, examples in ((self.split, self.examples[task.name]), ("val", self._chosen_on(task))):
                what, rows = f"the {split} split of {task.name}", dict(enumerate(examples, start=1))
                check_prompts(lm, rows, what, max_new_tokens=reserve)
                for name, way in told.items():
                    changed = {number: way(one) for number, one in rows.items()}
                    check_prompts(lm, changed, f"{what}, with its {name},", max_new_tokens=reserve)

    def _chosen_on(self, task: Task) -> Sequence[Example]:
        """The validation examples that are chosen on; none without controls, or where scored ones are."""
        if self.controls is None:
            return ()
        scored, limit = self.examples[task.name], self.controls.chosen_on(self.limit)
        examples, _, why = validation_of(task, scored, split=self.split, limit=limit)
        return examples if why is None else ()

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
