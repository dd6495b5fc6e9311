"""What joined runs show: how each system did on each task, against the base and against the best form control.

A study is data: `t2.evaluation.study_tables` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from t2.evaluation.joined_contrasts import JoinedContrast, join_contrasts
from t2.evaluation.joining import Joined
from t2.evaluation.results import Confusion, Null
from t2.evaluation.statistics import Paired, compare_runs, standard_error
from t2.evaluation.system_names import BASE, FORM, ORACLE, is_form


@dataclass(frozen=True)
class Cell:
    """How a system did on a task, over all the runs that have it."""

    mean: float
    stderr: float  # over examples, of the average over seeds
    n: int
    majority: float | None
    seeds: dict[str, float]  # seed, or seed.draw of a control -> mean
    paired: Paired | None  # against the base; None for the base itself
    paired_form: Paired | None  # against the best form control; None for form controls, and where none was chosen
    truncated: float | None  # share of the completions that the token budget cut off
    of_oracle: float | None  # mean divided by that of the oracle
    mixing_weights: dict[str, float]  # by domain, averaged over examples and seeds
    seconds: dict[str, float]  # fit, pass1 and pass2, averaged over seeds
    tokens: dict[str, float]  # prompt, completion, fit, pass1 and pass2, averaged over seeds


@dataclass(frozen=True)
class About:
    """A task: its questions, what guessing scores, and the form controls that were chosen, with their mean score."""

    n: int
    null: Null | None
    forms: list[str]
    form_mean: float | None


@dataclass(frozen=True)
class Study:
    """Cells by task and system, in the order of the runs; confusion matrices by system; notes on what to beware of."""

    tasks: dict[str, About]
    cells: dict[str, dict[str, Cell]]
    confusion: dict[str, Confusion]
    contrasts: list[JoinedContrast]
    notes: list[str]


def make_study(joined: Joined, contrasts: Sequence[str] = ()) -> Study:
    """All that the runs show.

    Raises:
        ValueError: two runs have confusion matrices of different pools, or what `join_contrasts` refuses.
    """
    found, notes = join_contrasts(joined, contrasts)
    confusion: dict[str, Confusion] = {}
    for results in joined.runs.values():
        for system, matrix in (results.confusion or {}).items():
            confusion[system] = confusion[system] + matrix if system in confusion else matrix
    return Study(
        tasks={task: _about(joined, task) for task in joined.scores},
        cells={
            task: {system: _cell(joined, task, system) for system in systems if system != FORM}
            for task, systems in joined.scores.items()
        },
        confusion=confusion,
        contrasts=found,
        notes=[*(note for task in joined.scores for note in _form_notes(joined, task)), *notes],
    )


def _about(joined: Joined, task: str) -> About:
    systems = joined.scores[task]
    nulls = [results.null[task] for results in joined.runs.values() if results.null and task in results.null]
    form = systems.get(FORM)
    return About(
        n=len(next(iter(systems[BASE].values()))),
        null=nulls[0] if nulls else None,
        forms=list(dict.fromkeys(joined.forms.get(task, {}).values())),
        form_mean=fmean(fmean(of) for of in form.values()) if form else None,
    )


def _cell(joined: Joined, task: str, system: str) -> Cell:
    draws, runs = joined.scores[task][system], joined.about[task, system]
    averages = [fmean(of) for of in zip(*draws.values(), strict=True)]
    oracle = joined.scores[task].get(ORACLE)
    best = fmean(fmean(of) for of in oracle.values()) if oracle else 0.0
    told = FORM in joined.scores[task] and not is_form(system)
    cut = [results.truncated[task][name] for results, name in runs if results.truncated]
    return Cell(
        mean=fmean(averages),
        stderr=standard_error(averages),
        n=len(averages),
        majority=runs[-1][0].scores[task][runs[-1][1]].majority,
        seeds={draw: fmean(of) for draw, of in sorted(draws.items())},
        paired=compare_runs(*joined.pairs(task, system, BASE)) if system != BASE else None,
        paired_form=compare_runs(*joined.pairs(task, system, FORM)) if told else None,
        truncated=fmean(cut) if cut else None,
        of_oracle=fmean(averages) / best if best else None,
        mixing_weights=_average([(one.mixing_weights or {}).get(task, {}).get(name, {}) for one, name in runs]),
        seconds=_average([(one.pass_seconds or {}).get(task, {}).get(name, {}) for one, name in runs]),
        tokens=_average([(one.tokens or {}).get(task, {}).get(name, {}) for one, name in runs]),
    )


def _average(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: fmean([table[name] for table in tables if name in table]) for name in names}


def _form_notes(joined: Joined, task: str) -> list[str]:
    """What a reader has to know of the form controls of a task."""
    chosen = joined.forms.get(task, {})
    having = [name for name, results in joined.runs.items() if task in results.scores]
    if not chosen:
        return [f"{task}: no run has form controls (controls=null, or of an older t2), so gains may be form alone."]
    notes = []
    if len(set(chosen.values())) > 1:
        told = ", ".join(f"{form} ({', '.join(n for n, of in chosen.items() if of == form)})"
                         for form in dict.fromkeys(chosen.values()))  # fmt: skip
        notes.append(
            f"{task}: the runs chose different form controls, {told}. A system is compared with that of its own seed."
        )
    if without := [name for name in having if name not in chosen]:
        instead = "that of its seed, or else the mean of all, stands for it"
        notes.append(f"{task}: {', '.join(without)} chose no form control; {instead}.")
    selections = [(name, (results.selection or {}).get(task)) for name, results in joined.runs.items()]
    if tested := [name for name, one in selections if one is not None and one.split == joined.runs[name].split]:
        notes.append(f"{task}: {', '.join(tested)} chose the form control on the scored split, which favours it.")
    return notes
