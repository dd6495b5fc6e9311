"""Evaluations of one pool of experts as tables and figures: python -m t2.evaluation.study RUN [RUN ...] --out FOLDER.

The paper's Tables 2, 3, 5 and 8 and Figures 6 and 7, of whatever the runs hold. A system that ran with several seeds
is averaged over them example by example; intervals are of its difference to the base on the same examples, by a
bootstrap over seeds and examples, and the spread between seeds is given beside it. Confusion matrices are summed over
the runs. Reads `results.json` and `samples.jsonl`
of finished runs; evaluates nothing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from t2.evaluation.figures import Difference, plot_confusion, plot_differences
from t2.evaluation.results import Confusion, Results
from t2.evaluation.statistics import Paired, compare_runs, standard_error
from t2.evaluation.systems import BASE
from t2.evaluation.tables import Table, confusion_table, number_table, percent
from t2.run.files import atomic_path, parse_json, read_lines
from t2.run.results import SAMPLES_FILE

SHOTS = re.compile(r"(?P<system>.+)_(?P<shots>\d+)")
CHOSEN_S = 0.05  # pass 1 of a fixed mixture takes less, and its share is no finding


@dataclass(frozen=True)
class Cell:
    """How a system did on a task, over all the runs that have it."""

    mean: float
    stderr: float  # over examples, of the average over seeds
    n: int
    majority: float | None
    seeds: dict[int, float]  # seed -> mean
    paired: Paired | None  # against the base; None for the base itself
    mixing_weights: dict[str, float]  # by domain, averaged over examples and seeds
    seconds: dict[str, float]  # pass1 and pass2, averaged over seeds


@dataclass(frozen=True)
class Study:
    """Cells by task and system, in the order of the runs; confusion matrices by system."""

    cells: dict[str, dict[str, Cell]]
    confusion: dict[str, Confusion]


def read_study(runs: Sequence[Path]) -> Study:
    """Join the runs.

    Raises:
        FileNotFoundError: a folder is not that of a finished evaluation.
        ValueError: a file is damaged, or two runs have different examples of one task, or used one seed twice for a
            system with different scores.
    """
    scores: dict[tuple[str, str], dict[int, list[float]]] = {}
    about: dict[tuple[str, str], list[Results]] = {}
    prompts: dict[str, list[str]] = {}
    confusion: dict[str, Confusion] = {}
    for run in runs:
        results, samples = Results.read(run), _read_samples(run)
        for (task, system), lines in samples.items():
            asked = [line["prompt"] for line in lines]
            if prompts.setdefault(task, asked) != asked:
                raise ValueError(f"{run} has other examples of {task} than the runs before; evaluate it again.")
            seeds = scores.setdefault((task, system), {})
            values = [float(line["score"]) for line in lines]
            if seeds.setdefault(results.seed, values) != values:
                raise ValueError(f"{run}: {system} on {task} was run twice with seed {results.seed}, differently.")
            about.setdefault((task, system), []).append(results)
        for system, found in (results.confusion or {}).items():
            confusion[system] = confusion[system] + found if system in confusion else found
    cells: dict[str, dict[str, Cell]] = {}
    for (task, system), seeds in scores.items():
        averages, base = (
            [fmean(of) for of in zip(*scores[task, name].values(), strict=True)] for name in (system, BASE)
        )
        of_runs = about[task, system]
        cells.setdefault(task, {})[system] = Cell(
            mean=fmean(averages),
            stderr=standard_error(averages),
            n=len(averages),
            majority=of_runs[-1].scores[task][system].majority,
            seeds={seed: fmean(values) for seed, values in sorted(seeds.items())},
            paired=compare_runs(list(seeds.values()), base) if system != BASE else None,
            mixing_weights=_average([(one.mixing_weights or {}).get(task, {}).get(system, {}) for one in of_runs]),
            seconds=_average([(one.pass_seconds or {}).get(task, {}).get(system, {}) for one in of_runs]),
        )
    return Study(cells, confusion)


def _read_samples(run: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
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


def _average(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: fmean([table[key] for table in tables if key in table]) for key in (tables[0] if tables else {})}


def score_table(study: Study, systems: Sequence[str], tasks: Sequence[str]) -> Table:
    """A row per system, score and difference to the base per task (paper, Table 2)."""
    rows = []
    for system in systems:
        found = [study.cells[task].get(system) for task in tasks]
        if any(found):
            rows.append([system, *map(_score_cell, found)])
    majority = [percent(next(iter(study.cells[task].values())).majority) for task in tasks]
    return Table(["", *tasks], [*rows, ["majority class", *majority]])


def seconds_table(study: Study, tasks: Sequence[str]) -> Table:
    """Seconds of both passes and their ratio (paper, Table 3)."""
    rows = []
    for task in tasks:
        for system, cell in study.cells[task].items():
            if cell.seconds.get("pass1", 0.0) >= CHOSEN_S:
                first, second = cell.seconds["pass1"], cell.seconds["pass2"]
                rows.append([task, system, f"{first:.1f}", f"{second:.1f}", f"{100 * first / second:.0f} %"])
    return Table(["task", "system", "pass 1, s", "pass 2, s", "ratio"], rows)


def weights_table(study: Study, systems: Sequence[str], tasks: Sequence[str]) -> Table:
    """Mean mixing weights by task and system (paper, Figure 7)."""
    cells = {task: {s: study.cells[task][s] for s in systems if s in study.cells[task]} for task in tasks}
    weights = {task: {s: c.mixing_weights for s, c in of.items() if c.mixing_weights} for task, of in cells.items()}
    return number_table(weights, ".2f")


def shots_of(study: Study) -> dict[str, dict[int, tuple[str, Cell]]]:
    """Task -> shots -> (system, cell), of systems whose names end in `_SHOTS` (paper, Table 8)."""
    found: dict[str, dict[int, tuple[str, Cell]]] = {}
    for task, systems in study.cells.items():
        for system, cell in systems.items():
            if match := SHOTS.fullmatch(system):
                found.setdefault(task, {})[int(match["shots"])] = (system, cell)
    return {task: dict(sorted(by_shots.items())) for task, by_shots in found.items()}


def draw_scores(study: Study, systems: Sequence[str], tasks: Sequence[str], path: Path) -> None:
    """Draw the systems' differences to the base, a panel per task."""
    panels = {}
    for task in tasks:
        base = study.cells[task][BASE].mean
        found = {s: cell for s in systems if (cell := study.cells[task].get(s)) is not None}
        panels[task] = {
            s: Difference(cell.paired, [mean - base for mean in cell.seeds.values()])
            for s, cell in found.items()
            if cell.paired is not None
        }
    titles = {task: f"{task}\nbase {percent(study.cells[task][BASE].mean)}" for task in tasks}
    plot_differences(panels, systems, path, titles=titles)


def study_tables(study: Study) -> list[tuple[str, Table]]:
    """All tables with their titles."""
    shots = shots_of(study)
    systems, tasks = _compared(study)
    tables = []
    if tasks:
        tables.append(("Scores, and differences to the base", score_table(study, systems, tasks)))
        tables.append(("Mixing weights", weights_table(study, [s for s in systems if ":" not in s], tasks)))
        tables.append(("Seconds of the passes", seconds_table(study, tasks)))
    for task, found in shots.items():
        alike = {SHOTS.sub(r"\g<system>", system) for system, _ in found.values()}  # as configured by default
        names = [BASE, *(system for system, _ in found.values()), *sorted(alike & study.cells[task].keys())]
        tables.append((f"Shots, {task}", score_table(study, names, [task])))
    return tables + [(f"Chosen by {system}", confusion_table(found)) for system, found in study.confusion.items()]


def _compared(study: Study) -> tuple[list[str], list[str]]:
    """The systems that no number of shots tells apart, and the tasks that have such systems besides the base."""
    by_shots = {system for found in shots_of(study).values() for system, _ in found.values()}
    systems = [s for s in dict.fromkeys(s for cells in study.cells.values() for s in cells) if s not in by_shots]
    return systems, [task for task, cells in study.cells.items() if set(cells) - by_shots - {BASE}]


def write_study(study: Study, folder: Path) -> None:
    """Write study.json, study.md and the figures into `folder`."""
    systems, tasks = _compared(study)
    if tasks:
        draw_scores(study, [system for system in systems if system != BASE], tasks, folder / "scores.png")
    for system, found in study.confusion.items():
        path = folder / f"confusion_{system}.png"
        plot_confusion(found.counts, found.labels, path, title=f"Chosen by {system}")
    with atomic_path(folder / "study.md") as partial:
        partial.write_text(
            "\n\n".join(f"## {title}\n\n{table.markdown()}" for title, table in study_tables(study)) + "\n"
        )
    with atomic_path(folder / "study.json") as partial:
        partial.write_bytes(TypeAdapter(Study).dump_json(study, indent=1) + b"\n")


def _score_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = f"{100 * cell.mean:.1f} ± {100 * cell.stderr:.1f}"
    if cell.paired is not None:
        low, high = cell.paired.ci95
        text += f" ({100 * cell.paired.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}])"
    if len(set(cell.seeds.values())) > 1:
        text += f", seeds {' '.join(f'{100 * mean:.1f}' for mean in cell.seeds.values())}"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Join the runs, print the tables, and write everything into a folder."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.study", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that evaluate.py finished in")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    options = parser.parse_args(arguments)
    try:
        study = read_study(options.runs)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    write_study(study, options.out)
    print("\n\n".join(f"{title}\n{table.text()}" for title, table in study_tables(study)))


if __name__ == "__main__":
    main()
