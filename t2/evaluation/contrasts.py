"""Contrasts that are named before a run: two systems on the same questions, corrected for their number.

A contrast is written `first - second`, with names of systems, `form` for the best form control of each task, or
`random:DOMAIN` for all draws of a control together. All
contrasts on all tasks are one family: their p-values are corrected by Holm's step-down procedure (Holm 1979), which
holds the chance of one false claim among them at the level, whatever depends on what.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from t2.evaluation.benchmark import Benchmark
from t2.evaluation.form_controls import form_ways
from t2.evaluation.joining import pair_draws
from t2.evaluation.null import null_of
from t2.evaluation.report import Report, check_same_examples, compare
from t2.evaluation.results import Contrasted, Null, Selection
from t2.evaluation.statistics import Paired, compare_runs, holm
from t2.evaluation.system_names import (
    BASE,
    BEST_SINGLE,
    FORM,
    ORACLE,
    is_form,
    is_scored,
    is_single,
    joined_name,
    parse_contrast,
)
from t2.policy.generator import Generator
from t2.run.messages import did_you_mean
from t2.tasks.base import Task

log = logging.getLogger(__name__)


def contrast(
    reports: Sequence[Report], contrasts: Sequence[str], selection: Mapping[str, Selection]
) -> list[Contrasted]:
    """Every contrast on every task, by task.

    Raises:
        ValueError: a contrast names a system that was not scored, or two that were scored on different questions.
    """
    found: list[Contrasted] = []
    for task in dict.fromkeys(report.task for report in reports):
        known = {report.system: report for report in reports if report.task == task}
        for text in contrasts:
            names = [
                selection[task].form if name == FORM and task in selection else name for name in parse_contrast(text)
            ]
            rows = []
            for name in names:
                rows.append([report for system, report in known.items() if name in (system, joined_name(system))])
                if not rows[-1]:
                    raise _unknown(text, name, task, [*known])
            first, second = names
            found.append(Contrasted(text, task, first, second, _paired(*rows), 1.0))
    corrected = holm([one.paired.p_value for one in found])
    return [
        Contrasted(one.contrast, one.task, one.first, one.second, one.paired, p)
        for one, p in zip(found, corrected, strict=True)
    ]


def check_contrasts(
    contrasts: Sequence[str],
    benchmark: Benchmark,
    systems: Sequence[str],
    domains: Mapping[str, str],
    base: Generator | None = None,
) -> None:
    """Check before anything is generated that what contrasts name will be scored.

    `systems` are the names of all but those that the benchmark adds, and `domains` the `true_domains` of its tasks.
    With `base`, whose context may hold no solved example, the form controls are those that it can be told.

    Raises:
        ValueError: a contrast is not written as one, or names a system that will not be scored.
    """
    pairs = {text: parse_contrast(text) for text in contrasts}
    for task in benchmark.tasks if pairs else ():
        known = _scored(task, benchmark, systems, domains.get(task.name), base)
        for text, names in pairs.items():
            for name in names:
                if not any(name in (system, joined_name(system)) for system in known):
                    raise _unknown(text, name, task.name, known)


def _scored(
    task: Task, benchmark: Benchmark, systems: Sequence[str], domain: str | None, base: Generator | None
) -> list[str]:
    """The systems that will be scored on a task, `form` among them where there are controls."""
    known = [system for system in systems if is_scored(system, domain)]
    if benchmark.controls is None:
        return known
    if not benchmark.controls.only_best:
        told: Mapping[str, Any] = (
            form_ways(task, benchmark.examples[task.name], benchmark.shown[task.name])
            if base is None
            else benchmark.systems_of(task, {BASE: base})
        )
        known += [name for name in told if name != BASE]
    return [*known, FORM, *([BEST_SINGLE, ORACLE] if any(map(is_single, known)) else [])]


def _unknown(text: str, name: str, task: str, known: Sequence[str]) -> ValueError:
    hint = did_you_mean(name, known)
    if name == FORM:
        hint = " `form` is the best form control, which controls=null leaves out: leave that away."
    if name in (BEST_SINGLE, ORACLE):
        hint = " That is made of the single experts: give experts=POOL with singles=true, without controls=null."
    return ValueError(
        f"The contrast {text!r} names {name!r}, which is not scored on {task}; there are {', '.join(known)}.{hint}"
    )


def _paired(first: Sequence[Report], second: Sequence[Report]) -> Paired:
    """The comparison of two systems; draws of a control stand together, as `pair_draws` says."""
    for one in (*first, *second):
        check_same_examples(one, second[0])
    return compare_runs(*pair_draws([one.scores for one in first], [one.scores for one in second]))


def summarize_controls(
    tasks: Sequence[Task], reports: Sequence[Report], selection: Mapping[str, Selection], contrasts: Sequence[str]
) -> dict[str, Any]:
    """The parts `selection`, `paired_form`, `null` and `contrasts` of `results.json`; a warning for what they show."""
    nulls: dict[str, Null] = {}
    paired: dict[str, dict[str, Paired]] = {}
    for task in tasks:
        known = {report.system: report for report in reports if report.task == task.name}
        base = known[BASE]
        nulls[task.name] = null_of(task, base.examples)
        if base.mean < nulls[task.name].score:
            log.warning("%s: the base (%.1f %%) scores below guessing: %s, %.1f %%.", task.name, 100 * base.mean,
                        nulls[task.name].guess, 100 * nulls[task.name].score)  # fmt: skip
        if task.name in selection:
            form = known[selection[task.name].form]
            paired[task.name] = {name: compare(one, form) for name, one in known.items() if not is_form(name)}
    return {
        "selection": dict(selection) or None,
        "paired_form": paired or None,
        "null": nulls,
        "contrasts": contrast(reports, contrasts, selection) or None,
    }
