"""Figures and tables from run folders: python -m t2.evaluation.tables RUN [RUN ...].

Reads only what a run wrote (`metrics.csv`, `results.json`); trains and evaluates nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2.adaptation.few_shot import Iteration
from t2.evaluation.figures import plot_learning_curve
from t2.evaluation.statistics import dispatch_accuracy, row_shares
from t2.evaluation.systems import EXPERT

BAR_CELLS = 30  # of a text bar that means 1


def results_table(results: Mapping[str, Any]) -> str:
    """The scores of a results.json as a text table: a line per task and system.

    Seconds of the two passes are columns where some system has them.
    """
    columns = ["task", "system", "score", "vs base", "95% interval", "p", "n", "majority"]
    passes = results.get("pass_seconds", {})
    rows = [columns + ["pass 1", "pass 2"] * bool(passes)]
    for task, systems in results["scores"].items():
        for system, score in systems.items():
            pair = results["paired"][task].get(system)
            low, high = pair["ci95"] if pair else (0.0, 0.0)
            error = f" ± {100 * score['stderr']:.1f}" if score["stderr"] is not None else ""
            row = [
                task,
                system,
                _percent(score["mean"]) + error,
                f"{100 * pair['difference']:+.1f}" if pair else "",
                f"[{100 * low:+.1f}, {100 * high:+.1f}]" if pair else "",
                f"{pair['p_value']:.2g}" if pair else "",
                str(score["n"]),
                _percent(score["majority"]),
            ]
            spent = passes.get(task, {}).get(system)
            if passes:
                row += [f"{spent[part]:.1f} s" for part in ("pass1", "pass2")] if spent else ["", ""]
            rows.append(row)
    return _table(rows)


def weights_table(results: Mapping[str, Any]) -> str:
    """The mean mixing weights of a results.json: a line per task and system, a column per domain; single experts say
    theirs."""
    table = {
        task: {system: weights for system, weights in systems.items() if not system.startswith(f"{EXPERT}:")}
        for task, systems in results["weights"].items()
    }
    return system_table(table, ".2f")


def system_table(numbers: Mapping[str, Mapping[str, Mapping[str, float]]], form: str) -> str:
    """Named numbers by task and system as a line for each, with a column per name; `form` is a format such as `.2f`."""
    names = list(dict.fromkeys(name for systems in numbers.values() for row in systems.values() for name in row))
    rows = [["task", "system", *names]]
    for task, systems in numbers.items():
        for system, row in systems.items():
            rows.append([task, system, *(f"{row[name]:{form}}" if name in row else "" for name in names)])
    return _table(rows)


def groups_table(by_group: Mapping[str, Any]) -> str:
    """The scores by group of a results.json: a line per task, kind and value, a column per system."""
    systems = list(dict.fromkeys(system for table in by_group.values() for system in table))
    rows = [["task", "group", "value", "n", *systems]]
    for task, table in by_group.items():
        first = next(iter(table.values()))  # every system answers the same examples
        for kind, values in first.items():
            for value, of_first in values.items():
                cells = [_percent(table[system][kind][value]["mean"]) if system in table else "" for system in systems]
                rows.append([task, kind, value, str(of_first["n"]), *cells])
    return _table(rows)


def confusion_table(confusion: Mapping[str, Any]) -> str:
    """One confusion matrix of a results.json: a line per true domain, shares of what was chosen for it."""
    counts, labels = confusion["counts"], confusion["labels"]
    rows = [["true \\ chosen", *labels, "n"]]
    for label, row, shares in zip(labels, counts, row_shares(counts), strict=True):
        if any(row):
            rows.append([label, *(f"{share or 0.0:.2f}" for share in shares), str(sum(row))])
    return f"{_table(rows)}\nright: {_percent(dispatch_accuracy(counts))}"


def bars(values: Mapping[str, float]) -> str:
    """Numbers by name as text bars, one a line; full length is 1, or the largest number where one is above."""
    if not values:
        return ""
    unit = BAR_CELLS / max(1.0, *(abs(value) for value in values.values()))
    width = max(map(len, values))
    return "\n".join(
        f"{name.ljust(width)}  {('█' if value >= 0 else '░') * round(abs(value) * unit):<{BAR_CELLS}}  {value:.3f}"
        for name, value in values.items()
    )


def history_table(history: Sequence[Iteration]) -> str:
    """The course of a search for a mixture: a line per generation, `best` so far and `mean` of its members."""
    rows = [["iteration", "best", "mean", "weights", "±"]]
    for line in history:
        weights, spread = (" ".join(f"{value:.2f}" for value in of) for of in (line.weight_mean, line.weight_std))
        rows.append([str(line.iteration), f"{line.best:.3f}", f"{line.mean:.3f}", weights, spread])
    return _table(rows)


def results_text(results: Mapping[str, Any]) -> str:
    """Everything of a results.json that is for reading: scores and their parts, mixing weights, confusion matrices,
    seconds."""
    parts = [results_table(results)]
    if "pass_at_k" in results:
        parts.append(f"pass@k:\n{system_table(results['pass_at_k'], '.3f')}")
    if "by_group" in results:
        parts.append(f"Scores by group:\n{groups_table(results['by_group'])}")
    if "reasons" in results:
        parts.append(f"Answers by reason:\n{system_table(results['reasons'], 'd')}")
    if results.get("weights"):
        parts.append(f"Mean mixing weights:\n{weights_table(results)}")
    parts += [f"Chosen by {system}:\n{confusion_table(c)}" for system, c in results.get("confusion", {}).items()]
    return "\n\n".join([*parts, f"Seconds: {seconds_table(results['seconds'])}"])


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first the header, with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def seconds_table(seconds: Mapping[str, float]) -> str:
    """Seconds by phase in one line."""
    return ", ".join(f"{phase} {value:.1f} s" for phase, value in seconds.items() if value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the results of the given run folders and draw their learning curves side by side."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.tables", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that train.py or evaluate.py wrote")
    parser.add_argument("--figure", type=Path, default=Path("learning_curves.png"), help="where the curves are drawn")
    options = parser.parse_args(arguments)
    for run in options.runs:
        if not (run / "results.json").exists():
            parser.error(f"{run} holds no results.json; give folders that train.py or evaluate.py finished in")
        results = json.loads((run / "results.json").read_text())
        print(f"\n{run}\n{results_text(results)}")
    trained = [run for run in options.runs if (run / "metrics.csv").exists()]
    if trained:
        plot_learning_curve(trained, options.figure)
        print(f"\nLearning curves: {options.figure}")


if __name__ == "__main__":
    main()
