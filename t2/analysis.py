"""Figures and tables from run folders: python -m t2.analysis RUN [RUN ...].

Reads only what a run wrote (`metrics.csv`, `results.json`); trains and evaluates nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from t2.loggers import read_metrics


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


def results_table(results: Mapping[str, Any]) -> str:
    """The scores of a results.json as a text table: a line per task and system."""
    columns = ("task", "system", "score", "vs base", "95% interval", "p", "n", "majority")
    rows = [columns]
    for task, systems in results["scores"].items():
        for system, score in systems.items():
            pair = results["paired"][task].get(system)
            low, high = pair["ci95"] if pair else (0.0, 0.0)
            rows.append(
                (
                    task,
                    system,
                    _percent(score["mean"])
                    + (f" ± {100 * score['stderr']:.1f}" if score["stderr"] is not None else ""),
                    f"{100 * pair['difference']:+.1f}" if pair else "",
                    f"[{100 * low:+.1f}, {100 * high:+.1f}]" if pair else "",
                    f"{pair['p_value']:.2g}" if pair else "",
                    str(score["n"]),
                    _percent(score["majority"]),
                )
            )
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def seconds_table(seconds: Mapping[str, float]) -> str:
    """Seconds by phase in one line."""
    return ", ".join(f"{phase} {value:.1f} s" for phase, value in seconds.items() if value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the results of the given run folders and draw their learning curves side by side."""
    parser = argparse.ArgumentParser(prog="python -m t2.analysis", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that train.py or evaluate.py wrote")
    parser.add_argument("--figure", type=Path, default=Path("learning_curves.png"), help="where the curves are drawn")
    options = parser.parse_args(arguments)
    for run in options.runs:
        if not (run / "results.json").exists():
            parser.error(f"{run} holds no results.json; give folders that train.py or evaluate.py finished in")
        results = json.loads((run / "results.json").read_text())
        print(f"\n{run}\n{results_table(results)}\n{seconds_table(results['seconds'])}")
    trained = [run for run in options.runs if (run / "metrics.csv").exists()]
    if trained:
        plot_learning_curve(trained, options.figure)
        print(f"\nLearning curves: {options.figure}")


if __name__ == "__main__":
    main()
