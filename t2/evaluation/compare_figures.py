"""Figures of ways to train against each other: gain by numbers, forgetting by gain, learning curves over seeds.

Each is drawn of what the runs have: forgetting needs evaluations with `held_out=`, curves the folders of the training
runs. Groups are those of `t2.evaluation.compare`. Colours and style are those of `t2.evaluation.figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.ticker import MaxNLocator

from t2.evaluation.compare_groups import Group
from t2.evaluation.figures import OKABE_ITO, drawing
from t2.run.metrics_file import read_metrics
from t2.run.results import METRICS_FILE

SIZE = (6.5, 4.2)  # inches


def write_figures(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Draw into `folder` what the groups have the numbers for; returns the files."""
    drawn = [folder / "gain_by_numbers.png"]
    _plot_gain_by_numbers(groups, drawn[0])
    if any(group.forgetting for group in groups):
        drawn.append(folder / "forgetting_by_gain.png")
        _plot_forgetting_by_gain(groups, drawn[-1])
    if any(group.trained for group in groups):
        drawn.append(folder / "learning_curves.png")
        _plot_curves({group.name: learning_curve(group.trained) for group in groups}, drawn[-1])
    return drawn


def learning_curve(runs: Sequence[Path]) -> dict[int, list[float]]:
    """Validation scores of all runs by step, of the steps that every run has validated; empty without runs."""
    found = [
        {step: float(row["val/score"]) for step, row in read_metrics(run / METRICS_FILE).items() if "val/score" in row}
        for run in runs
    ]
    common = set.intersection(*map(set, found)) if found else set()
    return {step: [scores[step] for scores in found] for step in sorted(common)}


def _plot_gain_by_numbers(groups: Sequence[Group], path: Path) -> None:
    with drawing(path, SIZE) as figure:
        axes = figure.subplots()
        for number, group in enumerate(groups):
            color, gain = OKABE_ITO[number % len(OKABE_ITO)], group.gain
            low, high = gain.ci95
            axes.plot([group.numbers] * 2, [100 * low, 100 * high], color=color, linewidth=2.5)
            axes.plot(group.numbers, 100 * gain.difference, "o", color=color, label=group.name)
            gains = [100 * value for value in group.gains]
            axes.plot([group.numbers] * len(gains), gains, "_", color=color, markersize=12)
        axes.set(xscale="log", xlabel="numbers that are learned", ylabel="gain over the base\n(percentage points)")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9)


def _plot_forgetting_by_gain(groups: Sequence[Group], path: Path) -> None:
    with drawing(path, SIZE) as figure:
        axes = figure.subplots()
        for number, group in enumerate(groups):
            if not group.forgetting:
                continue
            color, gains = OKABE_ITO[number % len(OKABE_ITO)], [100 * value for value in group.gains]
            axes.plot(gains, group.forgetting, "o", color=color, alpha=0.4, markersize=5)
            axes.plot(fmean(gains), fmean(group.forgetting), "D", color=color, label=group.name)
        axes.axhline(0.0, color="gray", linewidth=0.8)
        axes.set(
            xlabel="gain over the base (percentage points)",
            ylabel="increase of the loss\non held-out text (nats a token)",
        )
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9)


def _plot_curves(curves: Mapping[str, Mapping[int, Sequence[float]]], path: Path) -> None:
    with drawing(path, SIZE) as figure:
        axes = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            if not curve:  # its runs are gone, its colour stays its own
                continue
            color, steps = OKABE_ITO[number % len(OKABE_ITO)], list(curve)
            axes.plot(steps, [fmean(scores) for scores in curve.values()], "o-", color=color, label=name)
            lowest, highest = ([of(scores) for scores in curve.values()] for of in (min, max))
            axes.fill_between(steps, lowest, highest, color=color, alpha=0.15, linewidth=0)
        axes.set(xlabel="training step", ylabel="validation score: mean of the seeds,\nlowest to highest", ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9)
