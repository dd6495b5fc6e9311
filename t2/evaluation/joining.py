"""Finished evaluations of one set of questions, joined: the scores of each system by seed.

A system that ran with several seeds has a row of scores for each. So has a control that was drawn several times
(`random_1:DOMAIN`, ...) and a strategy that was fitted to several support sets (`few_shot#1`, ...), under the name
without the number. `form` is the best form control, as each run chose it; for a seed without one it is the mean of the
others' scores.
Reads `results.json` and `samples.jsonl`; evaluates nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from t2.evaluation.results import Results
from t2.evaluation.system_names import FORM, draw_of, joined_name
from t2.run.files import parse_json, read_lines
from t2.run.results import SAMPLES_FILE

Draws = dict[str, list[float]]  # seed, or seed.draw -> a score per question
Rows = Sequence[Sequence[float]]  # a score per question, by seed or draw


@dataclass(frozen=True)
class Joined:
    """Finished runs of the same questions.

    `scores` are by task, system and draw; `about` has for each task and system the runs that it is in, with its name
    there; `forms` has by task and run the form control that was chosen.
    """

    runs: dict[str, Results]  # by name
    scores: dict[str, dict[str, Draws]] = field(default_factory=dict)
    about: dict[tuple[str, str], list[tuple[Results, str]]] = field(default_factory=dict)
    forms: dict[str, dict[str, str]] = field(default_factory=dict)

    def draws(self, task: str, system: str) -> Draws:
        """The rows of a system, or of one draw of it where its name has a number (`few_shot#1`); empty without any."""
        found, number = self.scores[task].get(joined_name(system), {}), draw_of(system)
        return {draw: row for draw, row in found.items() if number is None or draw.partition(".")[2] == str(number)}

    def pairs(self, task: str, first: str, second: str) -> tuple[Rows, Rows]:
        """Scores of two systems on a task, (S, n) each, row by row of the seeds that both have.

        A system with one row has it for every seed. Draws of the only seed in common are paired as `pair_draws` says;
        where there are several seeds, they are averaged within each: they share its experts, so that taking each
        for a run of its own would give too narrow an interval.

        Raises:
            ValueError: they have no seed in common.
        """
        a, b = (self.draws(task, name) for name in (first, second))
        of, others = _by_seed(a), _by_seed(b)
        if len(a) == 1:
            of = dict.fromkeys(others, next(iter(of.values())))
        elif len(b) == 1:
            others = dict.fromkeys(of, next(iter(others.values())))
        seeds = [seed for seed in of if seed in others]
        if not seeds:
            raise ValueError(
                f"{first} ran on {task} with the seeds {', '.join(a)}, and {second} with {', '.join(b)}. Join runs in "
                "which both have a seed."
            )
        if len(seeds) == 1:
            return pair_draws(of[seeds[0]], others[seeds[0]])
        return [_mean(of[seed]) for seed in seeds], [_mean(others[seed]) for seed in seeds]


def pair_draws(first: Rows, second: Rows) -> tuple[Rows, Rows]:
    """The draws of two systems, as many of each.

    As many of both are paired in their order, and a single one stands beside each of the other's. Else (two support
    sets and three draws of a control) no pairing takes each of them as often: the means of both are compared then, so
    that the interval is over the questions alone.
    """
    if len(first) == len(second):
        return first, second
    if 1 in (len(first), len(second)):
        count = max(len(first), len(second))
        return [*first] * (count // len(first)), [*second] * (count // len(second))
    return [_mean(first)], [_mean(second)]


def _mean(rows: Rows) -> list[float]:
    """The mean of each question."""
    return [fmean(of) for of in zip(*rows, strict=True)]


def _by_seed(draws: Draws) -> dict[str, list[list[float]]]:
    """The rows of each seed, in the order of its draws."""
    found: dict[str, list[list[float]]] = {}
    for draw, row in draws.items():
        found.setdefault(draw.partition(".")[0], []).append(row)
    return found


def join_runs(paths: Sequence[Path]) -> Joined:
    """Read and join the runs.

    Raises:
        FileNotFoundError: a folder is not that of a finished evaluation.
        ValueError: a folder is given twice, a file is damaged, two systems have different questions of one task, or a
            system was run twice with one seed and other scores.
    """
    check_distinct(paths)
    alike = len({path.name for path in paths}) < len(paths)
    joined = Joined({str(path) if alike else path.name: Results.read(path) for path in paths})
    asked: dict[str, list[tuple[Any, ...]]] = {}
    chosen_on: dict[tuple[str, str], int] = {}
    for path, (name, results) in zip(paths, joined.runs.items(), strict=True):
        samples = read_samples(path)
        for (task, system), lines in samples.items():
            questions = [(line["prompt"], line.get("reference"), line.get("id")) for line in lines]
            if asked.setdefault(task, questions) != questions:
                raise ValueError(
                    f"{name}: {system} has other examples of {task} than the systems before it, so that they cannot be "
                    "compared. Evaluate all of them with the same task, split and limit."
                )
            _add(joined, task, system, results, [float(line["score"]) for line in lines], name)
        for task, selection in (results.selection or {}).items():
            joined.forms.setdefault(task, {})[name] = selection.form
            seed = str(results.seed)
            # Where runs of one seed chose differently, that with the most validation examples counts.
            if selection.n > chosen_on.get((task, seed), 0) and (task, selection.form) in samples:
                chosen_on[task, seed] = selection.n
                form = [float(line["score"]) for line in samples[task, selection.form]]
                joined.scores[task].setdefault(FORM, {})[seed] = form
    for task, systems in joined.scores.items():
        _fill_form(systems, {str(results.seed) for results in joined.runs.values() if task in results.scores})
    return joined


def check_distinct(paths: Sequence[Path]) -> None:
    """Raise ValueError where a folder is given twice: its seed would count for two."""
    folders = [path.resolve() for path in paths]
    if twice := [path for path, folder in zip(paths, folders, strict=True) if folders.count(folder) > 1]:
        raise ValueError(f"{twice[0]} is given twice. Give each run once.")


def _fill_form(systems: dict[str, Draws], seeds: Iterable[str]) -> None:
    """Have the mean of the others stand for a seed that chose no form control; a gain has all seeds of a system so."""
    if chosen := list(systems.get(FORM, {}).values()):
        systems[FORM] = {seed: systems[FORM].get(seed) or _mean(chosen) for seed in sorted(seeds)}


def _add(joined: Joined, task: str, system: str, results: Results, scores: list[float], run: str) -> None:
    number, name = draw_of(system), joined_name(system)
    draw = f"{results.seed}" if number is None else f"{results.seed}.{number}"
    draws = joined.scores.setdefault(task, {}).setdefault(name, {})
    if draws.setdefault(draw, scores) != scores:
        raise ValueError(f"{run}: {system} on {task} was run twice with seed {results.seed}, differently.")
    joined.about.setdefault((task, name), []).append((results, system))


def read_samples(run: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The lines of a run's samples.jsonl by task and system.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, not of an evaluation, or has several completions of a prompt.
    """
    path = run / SAMPLES_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no {SAMPLES_FILE}: give folders of finished evaluations.")
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number, text in enumerate(read_lines(path, "Give the folder of another run."), start=1):
        try:
            line = parse_json(text.encode(), "it", "")
            key = line["task"], line["system"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}, is not of an evaluation. Give the folder of another run."
            ) from None
        if "sample" in line:
            raise ValueError(f"{run} has several completions of a prompt; a study needs sampling.samples=1.")
        samples.setdefault(key, []).append(line)
    return samples
