"""Evaluations of one pool of experts as tables and figures: python -m t2.evaluation.study RUN [RUN ...] --out FOLDER.

The paper's Tables 2, 3, 5 and 8 and Figures 6 and 7, of whatever the runs hold. A system that ran with several seeds
is averaged over them question by question; intervals are of that average over questions (paired bootstrap, against the
base on the same questions), and the spread between seeds is given beside it. Reads `results.json` and `samples.jsonl`
of finished runs; evaluates nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from t2.evaluation.figures import plot_confusion
from t2.evaluation.statistics import Paired, compare_scores, row_shares
from t2.run.files import atomic_path

SHOTS = re.compile(r"(?P<system>.+)_(?P<shots>\d+)")


@dataclass(frozen=True)
class Cell:
    """How a system did on a task, over all the runs that have it."""

    mean: float
    stderr: float  # over questions, of the average over seeds
    n: int
    majority: float | None
    seeds: dict[int, float]  # seed -> mean
    paired: Paired | None  # against the base; None for the base itself
    weights: dict[str, float]  # by domain, averaged over questions and seeds
    seconds: dict[str, float]  # pass1 and pass2, averaged over seeds


@dataclass(frozen=True)
class Study:
    """Cells by task and system, in the order of the runs; confusion matrices by system."""

    cells: dict[str, dict[str, Cell]]
    confusion: dict[str, Any]


def read_study(runs: Sequence[Path]) -> Study:
    """Join the runs.

    Raises:
        FileNotFoundError: a folder is not that of a finished evaluation.
        ValueError: two runs asked different questions of one task, or used one seed twice for a system.
    """
    scores: dict[tuple[str, str], dict[int, list[float]]] = {}
    about: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    questions: dict[str, list[str]] = {}
    majority: dict[str, float | None] = {}
    confusion: dict[str, Any] = {}
    for run in runs:
        results, samples = _read(run)
        for key, lines in samples.items():
            task, system = key
            asked = [line["prompt"] for line in lines]
            if questions.setdefault(task, asked) != asked:
                raise ValueError(f"{run} asked other questions of {task} than the runs before; evaluate it again.")
            seeds = scores.setdefault(key, {})
            values = [float(line["score"]) for line in lines]
            if seeds.get(results["seed"], values) != values:
                raise ValueError(f"{run}: {system} on {task} was run twice with seed {results['seed']}, differently.")
            seeds[results["seed"]] = values
            majority[task] = results["scores"][task][system]["majority"]
            about.setdefault(key, []).append(
                {
                    "weights": results.get("weights", {}).get(task, {}).get(system, {}),
                    "seconds": results.get("pass_seconds", {}).get(task, {}).get(system, {}),
                }
            )
        confusion |= {name: found for name, found in results.get("confusion", {}).items() if name not in confusion}
    cells: dict[str, dict[str, Cell]] = {}
    for (task, system), seeds in scores.items():
        averages = [_mean(of) for of in zip(*seeds.values(), strict=True)]
        base = [_mean(of) for of in zip(*scores[task, "base"].values(), strict=True)]
        cells.setdefault(task, {})[system] = Cell(
            mean=_mean(averages),
            stderr=statistics.stdev(averages) / math.sqrt(len(averages)) if len(averages) > 1 else math.nan,
            n=len(averages),
            majority=majority[task],
            seeds={seed: _mean(values) for seed, values in sorted(seeds.items())},
            paired=compare_scores(averages, base) if system != "base" else None,
            weights=_average([one["weights"] for one in about[task, system]]),
            seconds=_average([one["seconds"] for one in about[task, system]]),
        )
    return Study(cells, confusion)


def score_table(study: Study, systems: Sequence[str], tasks: Sequence[str]) -> str:
    """Markdown: a line per system, score and difference to the base per task (paper, Table 2)."""
    lines = [f"| | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for system in systems:
        found = [study.cells[task].get(system) for task in tasks]
        if any(found):
            lines.append(f"| {system} | {' | '.join(_score_cell(cell) for cell in found)} |")
    majority = " | ".join(_percent(next(iter(study.cells[task].values())).majority) for task in tasks)
    return "\n".join([*lines, f"| majority class | {majority} |"])


def seconds_table(study: Study, tasks: Sequence[str]) -> str:
    """Markdown: seconds of both passes and their ratio (paper, Table 3)."""
    lines = ["| system | task | pass 1, s | pass 2, s | ratio |", "|---|---|---|---|---|"]
    for task in tasks:
        for system, cell in study.cells[task].items():
            if cell.seconds.get("pass1", 0.0) >= 0.05:  # a fixed mixture is chosen in no time
                first, second = cell.seconds["pass1"], cell.seconds["pass2"]
                lines.append(f"| {system} | {task} | {first:.1f} | {second:.1f} | {100 * first / second:.0f} % |")
    return "\n".join(lines)


def weights_table(study: Study, systems: Sequence[str], tasks: Sequence[str]) -> str:
    """Markdown: mean mixing weights by system and task (paper, Figure 7)."""
    domains = list(dict.fromkeys(d for task in tasks for cell in study.cells[task].values() for d in cell.weights))
    lines = [f"| system | task | {' | '.join(domains)} |", "|---" * (len(domains) + 2) + "|"]
    for system in systems:
        for task in tasks:
            cell = study.cells[task].get(system)
            if cell is not None and cell.weights:
                values = " | ".join(f"{cell.weights.get(domain, 0.0):.2f}" for domain in domains)
                lines.append(f"| {system} | {task} | {values} |")
    return "\n".join(lines)


def shots_of(study: Study) -> dict[str, dict[int, tuple[str, Cell]]]:
    """Task -> shots -> (system, cell), of systems whose names end in `_SHOTS` (paper, Table 8)."""
    found: dict[str, dict[int, tuple[str, Cell]]] = {}
    for task, systems in study.cells.items():
        for system, cell in systems.items():
            if match := SHOTS.fullmatch(system):
                found.setdefault(task, {})[int(match["shots"])] = (system, cell)
    return {task: dict(sorted(by_shots.items())) for task, by_shots in found.items()}


def confusion_text(study: Study) -> str:
    """Markdown: what was chosen for prompts of which domain (paper, Figure 6)."""
    parts = []
    for system, found in study.confusion.items():
        labels = found["labels"]
        lines = [f"| {system}: true | {' | '.join(labels)} | n |", "|---" * (len(labels) + 2) + "|"]
        for label, row, shares in zip(labels, found["counts"], row_shares(found["counts"]), strict=True):
            if sum(row):
                cells = " | ".join(f"{share or 0.0:.2f}" for share in shares)
                lines.append(f"| {label} | {cells} | {sum(row)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def draw_scores(study: Study, systems: Sequence[str], tasks: Sequence[str], path: Path) -> None:
    """Differences to the base with their 95 % intervals, a panel per task; dots are seeds."""
    figure = Figure(figsize=(3.2 * len(tasks), 0.32 * len(systems) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        base = study.cells[task]["base"].mean
        for row, system in enumerate(systems):
            cell = study.cells[task].get(system)
            if cell is None or cell.paired is None:
                continue
            low, high = cell.paired.ci95
            axes.plot([100 * low, 100 * high], [row, row], color="C0", linewidth=2)
            axes.plot(100 * cell.paired.difference, row, "o", color="C0")
            if len(cell.seeds) > 1:
                axes.plot([100 * (mean - base) for mean in cell.seeds.values()], [row] * len(cell.seeds), "k|")
        axes.axvline(0.0, color="gray", linewidth=0.8)
        axes.set(title=f"{task}\nbase {_percent(base)}", xlabel="points above the base")
    panels[0].set_yticks(range(len(systems)), systems)
    panels[0].invert_yaxis()
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def write_study(study: Study, folder: Path) -> str:
    """Write study.json, study.md and the figures into `folder`; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    shots = shots_of(study)
    by_shots = {system for found in shots.values() for system, _ in found.values()}
    systems = [s for s in dict.fromkeys(s for cells in study.cells.values() for s in cells) if s not in by_shots]
    tasks = [task for task, cells in study.cells.items() if set(cells) - by_shots - {"base"}]
    parts = []
    if tasks:
        parts += ["## Scores, and differences to the base", score_table(study, systems, tasks)]
        parts += ["## Mixing weights", weights_table(study, [s for s in systems if ":" not in s], tasks)]
        parts += ["## Seconds of the passes", seconds_table(study, tasks)]
        draw_scores(study, [system for system in systems if system != "base"], tasks, folder / "scores.png")
    for task, found in shots.items():
        alike = {SHOTS.sub(r"\g<system>", system) for system, _ in found.values()}  # as configured by default
        names = ["base", *(system for system, _ in found.values()), *sorted(alike & study.cells[task].keys())]
        parts += [f"## Shots, {task}", score_table(study, names, [task])]
    if study.confusion:
        parts += ["## Chosen labels", confusion_text(study)]
        for system, matrix in study.confusion.items():
            plot_confusion(matrix["counts"], matrix["labels"], folder / f"confusion_{system}.png")
    text = "\n\n".join(parts) + "\n"
    with atomic_path(folder / "study.md") as partial:
        partial.write_text(text)
    with atomic_path(folder / "study.json") as partial:
        partial.write_text(json.dumps(asdict(study), indent=1) + "\n")
    return text


def _read(run: Path) -> tuple[dict[str, Any], dict[tuple[str, str], list[dict[str, Any]]]]:
    if not (run / "results.json").is_file() or not (run / "samples.jsonl").is_file():
        raise FileNotFoundError(f"{run} holds no results.json and samples.jsonl: give folders of finished evaluations.")
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for text in (run / "samples.jsonl").read_text().splitlines():
        line = json.loads(text)
        if "sample" in line:
            raise ValueError(f"{run} has several answers to a question; a study wants sampling.samples=1.")
        samples.setdefault((line["task"], line["system"]), []).append(line)
    return results, samples


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


def _average(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: _mean([table[key] for table in tables if key in table]) for key in (tables[0] if tables else {})}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    """Join the runs, print the tables, and write everything into a folder."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.study", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that evaluate.py finished in")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    options = parser.parse_args(arguments)
    print(write_study(read_study(options.runs), options.out))


if __name__ == "__main__":
    main()
