"""Figures of what a run wrote: learning curves and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from t2.evaluation.statistics import row_shares
from t2.run.metrics_csv import read_metrics


def plot_learning_curve(runs: Sequence[Path], path: Path) -> None:
    """Draw training score, validation score and seconds per step of the runs' metrics into `path`.

    Raises:
        FileNotFoundError: a folder holds no metrics.csv.
    """
    figure = Figure(figsize=(7, 6))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for number, run in enumerate(runs):
        if not (run / "metrics.csv").exists():
            raise FileNotFoundError(f"{run} holds no metrics.csv: it is not the folder of a training run.")
        rows = read_metrics(run / "metrics.csv")
        color = f"C{number}"
        steps, scores = _column(rows, "train/score")
        top.plot(steps, scores, color=color, alpha=0.35, label=f"{run.name}: sampled, training prompts")
        steps, scores = _column(rows, "val/score")
        _, errors = _column(rows, "val/stderr")
        top.errorbar(
            steps,
            scores,
            yerr=errors,
            color=color,
            marker="o",
            capsize=2,
            label=f"{run.name}: greedy, validation",
        )
        for phase, style in (("rollout", "-"), ("update", "--")):
            steps, seconds = _column(rows, f"seconds/{phase}")
            bottom.plot(steps, seconds, style, color=color, label=phase if number == 0 else None)
    top.set(ylabel="score", ylim=(0, 1))
    bottom.set(xlabel="step", ylabel="seconds", ylim=(0, None))
    for axes in (top, bottom):
        axes.grid(alpha=0.2)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _column(rows: Mapping[int, Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    found = [(step, float(row[name])) for step, row in sorted(rows.items()) if name in row]
    return [step for step, _ in found], [value for _, value in found]


def plot_confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str], path: Path) -> None:
    """Draw which label was chosen (columns) for prompts of which domain (rows): shares of the row, and counts."""
    size = 2.5 + 0.8 * len(labels)
    figure = Figure(figsize=(size, size))
    axes = figure.subplots()
    shares = row_shares(matrix)
    axes.imshow([[share or 0.0 for share in row] for row in shares], cmap="Blues", vmin=0, vmax=1)
    for row, (counts, parts) in enumerate(zip(matrix, shares, strict=True)):
        for column, (count, share) in enumerate(zip(counts, parts, strict=True)):
            if share is not None:  # no prompt was of this domain: an empty row says so
                color = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.2f}\n({count})", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="chosen", ylabel="true domain")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
