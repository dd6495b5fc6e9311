"""A sweep as one table and one figure: python -m t2.evaluation.tables SWEEP.

A row per setting and system; runs that differ by the seed alone are a row together. Settings are the keys of the
command lines that differ among the jobs. The interval of several seeds is Student's over their scores, that of one seed
is of its questions (normal). Reads finished runs alone, and names the jobs without a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from omegaconf import OmegaConf
from scipy.stats import t as student

from t2.evaluation.figures import OKABE_ITO, drawing
from t2.evaluation.results import Results
from t2.evaluation.table import Table
from t2.run.files import atomic_path
from t2.run.results import RESULTS_FILE
from t2.run.sweep import read_jobs

SEED, TASK = "seed", "task"
NOT_SETTINGS = ("skip_finished", "resume", "logger")  # keys that decide nothing of a result
NORMAL_95 = 1.96
FIGURE_FILE, TABLE_FILE = "sweep.png", "sweep.md"


@dataclass(frozen=True)
class SweepRun:
    """A finished job: its overrides by key, and its results."""

    overrides: Mapping[str, str]
    results: Results


@dataclass(frozen=True)
class Row:
    """A system on a task under one setting: a score per run, and its difference to the base, () for the base.

    `stderr` is that of the questions of the first run.
    """

    setting: tuple[str, ...]
    task: str
    system: str
    scores: tuple[float, ...]
    differences: tuple[float, ...]
    stderr: float | None

    @property
    def mean(self) -> float:
        """Mean score of the runs."""
        return fmean(self.scores)

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The wider of that of the runs and that of the questions, which all runs share; None of one run and question.

        Runs that answer alike, as those of the base, say nothing of other questions.
        """
        n, halves = len(self.scores), [] if self.stderr is None else [NORMAL_95 * self.stderr]
        if n > 1:
            halves.append(float(student.ppf(0.975, n - 1)) * stdev(self.scores) / sqrt(n))
        return (self.mean - max(halves), self.mean + max(halves)) if halves else None


def is_sweep(folder: Path) -> bool:
    """Whether the folder holds runs and is none itself."""
    return not (folder / RESULTS_FILE).is_file() and next(_finished(folder), None) is not None


def _finished(folder: Path) -> Any:
    return (path.parent for path in folder.rglob(RESULTS_FILE))


def read_sweep(folder: Path) -> list[SweepRun]:
    """The finished runs below a folder, in the order of their jobs.

    Raises:
        ValueError: a results file is damaged, or a run has no record of its command line.
    """
    numbers = {Path(job.folder).resolve(): job.number for job in read_jobs(folder)}
    found = []
    for run in sorted(_finished(folder), key=lambda run: (numbers.get(run.resolve(), len(numbers)), _natural(run))):
        saved = run / ".hydra" / "overrides.yaml"
        if not saved.is_file():
            raise ValueError(f"{saved} is not there, so what was swept is not known. Give the runs by themselves.")
        words: Any = OmegaConf.to_container(OmegaConf.load(saved), resolve=False)
        pairs = (str(word).lstrip("+").partition("=") for word in words)
        found.append(SweepRun({key: value for key, _, value in pairs}, Results.read(run)))
    return found


def _natural(path: Path) -> tuple[Any, ...]:
    return tuple((int(part), "") if part.isdigit() else (0, part) for part in path.parts)


def swept_keys(runs: Sequence[SweepRun]) -> list[str]:
    """The keys whose values differ among the runs, in the order of the command line, the seed included."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides if key not in NOT_SETTINGS)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def rows_of(runs: Sequence[SweepRun]) -> tuple[list[str], list[Row]]:
    """The keys that were swept, without the seed, and a row per setting, task and system."""
    keys = [key for key in swept_keys(runs) if key != SEED]
    groups: dict[tuple[str, ...], list[Results]] = {}
    for run in runs:
        groups.setdefault(tuple(run.overrides.get(key, "") for key in keys), []).append(run.results)
    rows = []
    for setting, results in groups.items():
        cells = dict.fromkeys((task, system) for one in results for task in one.scores for system in one.scores[task])
        for task, system in cells:
            having = [one for one in results if system in one.scores.get(task, {})]
            scores = [one.scores[task][system] for one in having]
            pairs = [one.paired[task][system] for one in having if system in one.paired.get(task, {})]
            rows.append(
                Row(
                    setting, task, system, tuple(score.mean for score in scores),
                    tuple(pair.difference for pair in pairs), scores[0].stderr,
                )
            )  # fmt: skip
    return keys, rows


def _short(value: str) -> str:
    """A number with four digits, and anything else as it is, whole numbers included."""
    try:
        number = float(value)
    except ValueError:
        return value
    return value if number.is_integer() else f"{number:.4g}"


def sweep_table(keys: Sequence[str], rows: Sequence[Row]) -> Table:
    """The rows with their settings."""
    tasks = [] if TASK in keys and all(row.task == row.setting[keys.index(TASK)] for row in rows) else [TASK]
    cells = []
    for row in rows:
        interval = "" if row.ci95 is None else f"[{100 * row.ci95[0]:.1f}, {100 * row.ci95[1]:.1f}]"
        cells.append(
            [
                *map(_short, row.setting), *[row.task] * len(tasks), row.system,
                f"{_spread(row.scores, '.1f')} %", interval, _spread(row.differences, "+.1f"), str(len(row.scores)),
            ]
        )  # fmt: skip
    return Table([*keys, *tasks, "system", "score ± sd", "95% interval", "vs base ± sd", "runs"], cells)


def _spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation in percentage points."""
    if not values:
        return ""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):{form}}{spread}"


def plot_sweep(keys: Sequence[str], rows: Sequence[Row], path: Path) -> None:
    """Draw each setting's scores with their intervals, a panel per task, a colour per system and a tick per run."""
    tasks, systems = list(dict.fromkeys(row.task for row in rows)), list(dict.fromkeys(row.system for row in rows))
    # A panel is a task, so that a setting is a place by its other keys.
    others = {row.setting: _others(keys, row) for row in rows}
    labels = list(dict.fromkeys(others.values()))
    with drawing(path, (4.6 * len(tasks) + 2.0, (0.25 * len(systems) + 0.2) * len(labels) + 1.6)) as figure:
        grid = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for axes, task in zip(grid, tasks, strict=True):
            for row in (row for row in rows if row.task == task):
                number = systems.index(row.system)
                height = labels.index(others[row.setting]) + 0.7 * ((number + 0.5) / len(systems) - 0.5)
                color = OKABE_ITO[number % len(OKABE_ITO)]
                if row.ci95 is not None:
                    axes.plot([100 * end for end in row.ci95], [height, height], color=color, linewidth=2)
                axes.plot(100 * row.mean, height, "o", color=color, label=row.system)
                if len(row.scores) > 1:
                    axes.plot([100 * one for one in row.scores], [height] * len(row.scores), "|", color="black")
            axes.grid(alpha=0.25, axis="x")
            axes.set(title=task, xlabel="score (%), 95 % interval")
            known = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
            axes.legend(known.values(), known.keys(), fontsize=9)
        grid[0].set_yticks(range(len(labels)), labels)
        grid[0].invert_yaxis()


def _others(keys: Sequence[str], row: Row) -> str:
    """The setting in words, without the task."""
    pairs = zip(keys, row.setting, strict=True)
    return ", ".join(f"{key}={_short(value)}" for key, value in pairs if (key, value) != (TASK, row.task))


def write_sweep(folder: Path) -> str:
    """Draw `sweep.png` and write `sweep.md` into the folder of a sweep; returns the table as text.

    Raises:
        ValueError: what `read_sweep` refuses.
    """
    runs = read_sweep(folder)
    keys, rows = rows_of(runs)
    table = sweep_table(keys, rows)
    jobs = read_jobs(folder)
    moved = not any(Path(job.folder).is_relative_to(folder.resolve()) for job in jobs)  # records have absolute paths
    places = {job.number: folder / Path(job.folder).name if moved else Path(job.folder) for job in jobs}
    lacking = [number for number, place in places.items() if not (place / RESULTS_FILE).is_file()]
    note = f"Jobs without a result: {', '.join(map(str, lacking))}." if lacking else ""
    plot_sweep(keys, rows, folder / FIGURE_FILE)
    with atomic_path(folder / TABLE_FILE) as partial:
        partial.write_text("\n\n".join(part for part in (table.markdown(), note) if part) + "\n")
    return "\n\n".join(part for part in (table.text(), note, f"Figure: {folder / FIGURE_FILE}") if part)
