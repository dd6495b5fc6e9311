"""Figures of what runs wrote: learning curves, confusion matrices, differences to the base.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; the ground is white also on dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from t2.evaluation.statistics import Paired, row_shares
from t2.run.files import atomic_path
from t2.run.metrics_file import read_metrics
from t2.run.results import METRICS_FILE

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLE = {
    "font.size": 11,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 200,
    "text.color": "black",
}


@dataclass(frozen=True)
class Difference:
    """A system against the base; `seeds` are the differences of each seed."""

    paired: Paired
    seeds: Sequence[float]


@contextmanager
def drawing(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of `size` in inches, in the style of all figures; written to `path` as PNG at the end."""
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with atomic_path(path) as partial:
            figure.savefig(partial, format="png")


def plot_learning_curve(runs: Sequence[Path], path: Path) -> None:
    """Draw training score, validation score and seconds per step of the runs' metrics into `path`.

    Raises:
        FileNotFoundError: a folder holds no metrics.csv.
    """
    for run in runs:
        if not (run / METRICS_FILE).exists():
            raise FileNotFoundError(f"{run} holds no {METRICS_FILE}: it is not the folder of a training run.")
    with drawing(path, (7.5, 6.5)) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for number, run in enumerate(runs):
            _draw_run(top, bottom, run, color=OKABE_ITO[number % len(OKABE_ITO)], first=number == 0)
        top.set(title="Learning curve", ylabel="mean score (0 to 1)", ylim=(0, 1))
        bottom.set(xlabel="training step", ylabel="time per step (s)", ylim=(0, None))
        bottom.xaxis.get_major_locator().set_params(integer=True)
        for axes in (top, bottom):
            axes.grid(alpha=0.25)
            axes.legend(fontsize=9)


def _draw_run(top: Any, bottom: Any, run: Path, *, color: str, first: bool) -> None:
    rows = read_metrics(run / METRICS_FILE)
    steps, scores = _column(rows, "train/score")
    top.plot(steps, scores, color=color, alpha=0.4, label=f"{run.name}: sampled, training prompts")
    steps, scores = _column(rows, "val/score")
    _, errors = _column(rows, "val/stderr")
    label = f"{run.name}: greedy, validation (± standard error)"
    top.errorbar(steps, scores, yerr=errors or None, color=color, marker="o", capsize=2, label=label)
    for phase, style in (("rollout", "-"), ("update", "--")):
        steps, seconds = _column(rows, f"seconds/{phase}")
        bottom.plot(steps, seconds, style, color=color, label=phase if first else None)


def _column(rows: Mapping[int, Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    found = [(step, float(row[name])) for step, row in sorted(rows.items()) if name in row]
    return [step for step, _ in found], [value for _, value in found]


def plot_confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str], path: Path, *, title: str = "") -> None:
    """Draw which label was chosen (columns) for prompts of which domain (rows): shares of the row, and counts."""
    size = 3.0 + 0.9 * len(labels)
    shares = row_shares(matrix)
    with drawing(path, (size + 1.0, size)) as figure:
        axes = figure.subplots()
        image = axes.imshow([[share or 0.0 for share in row] for row in shares], cmap="Blues", vmin=0, vmax=1)
        for row, (counts, parts) in enumerate(zip(matrix, shares, strict=True)):
            for column, (count, share) in enumerate(zip(counts, parts, strict=True)):
                if share is not None:  # a domain without prompts has an empty row
                    color = "white" if share > 0.5 else "black"
                    text = f"{share:.2f}\n({count})"
                    axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(title=title, xlabel="chosen label", ylabel="true domain")
        figure.colorbar(image, label="share of the domain's prompts", shrink=0.8)


def plot_differences(
    panels: Mapping[str, Mapping[str, Difference]],
    systems: Sequence[str],
    path: Path,
    *,
    titles: Mapping[str, str],
    to: str = "the base",
) -> None:
    """Draw differences with their 95 % intervals: a panel per task, a row per system, a tick per seed."""
    with drawing(path, (3.6 * len(panels) + 1.0, 0.4 * len(systems) + 1.6)) as figure:
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (task, found) in zip(grid, panels.items(), strict=True):
            for row, system in enumerate(systems):
                if system not in found:
                    continue
                one, (low, high) = found[system], found[system].paired.ci95
                axes.plot([100 * low, 100 * high], [row, row], color=OKABE_ITO[0], linewidth=2.5)
                axes.plot(100 * one.paired.difference, row, "o", color=OKABE_ITO[0])
                if len(one.seeds) > 1:
                    axes.plot([100 * seed for seed in one.seeds], [row] * len(one.seeds), "|", color=OKABE_ITO[1])
            axes.axvline(0.0, color="gray", linewidth=0.8)
            axes.grid(alpha=0.25, axis="x")
            axes.set(title=titles[task], xlabel=f"difference to {to}\n(percentage points)")
        grid[0].set_yticks(range(len(systems)), systems)
        grid[0].invert_yaxis()
