"""What becomes of known tasks as a pool of experts grows: python -m t2.evaluation.growth FOLDER ... [--out FOLDER]

Each FOLDER is what `scripts/growth.sh` made with one seed. A pool of K experts is scored on the K tasks that they were
trained on, beside each task's own expert, one expert that learned the same tasks one after another, and, at the largest
K, one that learned them together. Where every expert was scored on every task (ORACLE=true), the oracle is beside them:
the best of the base and the K experts on each question, which bounds what choosing one of them can reach. A task
counts as much as any other. Intervals count that seeds and questions vary; the three contrasts, named in
`conf/experiment/growth/expert.yaml` before the runs, are corrected together. Evaluates nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.ticker import MaxNLocator

from t2.evaluation.compare import Difference, differences, differences_table
from t2.evaluation.compare_groups import Group
from t2.evaluation.figures import OKABE_ITO, drawing
from t2.evaluation.joining import read_samples
from t2.evaluation.results import Results
from t2.evaluation.system_names import ALL, BASE, EXPERT, FORM, ORACLE, is_single
from t2.evaluation.table import Table, percent
from t2.run.files import atomic_path
from t2.run.results import CENTROIDS_FILE

POOL, OWN, SEQUENCE, JOINT = "centroid", "its own expert", "in sequence", "together"
CONTRASTS = (SEQUENCE, JOINT, ALL)
DRAWN = (OWN, POOL, JOINT, SEQUENCE, ALL, FORM, ORACLE)
Scores = dict[str, dict[str, list[float]]]  # system -> task -> a score per question
Questions = dict[str, list[tuple[object, object]]]  # task -> prompt and reference of each question


@dataclass(frozen=True)
class Growth:
    """One seed: the scores by number of experts. All systems have the same questions of each task."""

    folder: Path
    scores: Mapping[int, Scores]

    def of(self, size: int, system: str) -> list[float] | None:
        """The scores of a system on all tasks of a pool, one after another; None where it was not scored.

        Where tasks have different numbers of questions, each is weighted so that the mean is that of the tasks' means.
        """
        by_task = self.scores[size].get(system)
        if by_task is None:
            return None
        total = sum(map(len, by_task.values()))
        return [score * (total / (len(by_task) * len(of))) for of in by_task.values() for score in of]


def read_growth(folder: Path) -> Growth:
    """Read what `scripts/growth.sh` scored.

    Raises:
        FileNotFoundError: the folder holds no scored pool, or no scores of the expert trained in sequence.
        ValueError: systems have other questions of a task, or other tasks than the pool of their size.
    """
    sizes = sorted(int(path.name.rpartition("_")[2]) for path in folder.glob("score_pool_*"))
    if not sizes:
        raise FileNotFoundError(
            f"{folder} holds no score_pool_3 or the like: make it with scripts/growth.sh {folder} 0."
        )
    # What does not depend on the other experts of a pool: it counts for pools of all sizes.
    asked: Questions = {}
    largest = read_scores(folder / f"score_pool_{sizes[-1]}", {}, asked)
    alone: Scores = {FORM: largest[FORM]}
    for number in range(1, sizes[-1] + 1):
        alone.setdefault(OWN, {}).update(read_scores(folder / f"score_own_{number}", {EXPERT: OWN}, asked)[OWN])
    scores = {}
    for size in sizes:
        scored = read_scores(folder / f"score_pool_{size}", {}, asked)
        found = {system: scored[system] for system in (BASE, POOL, ALL)}  # forms are not scored on every task
        beside = [alone, read_scores(folder / f"score_sequence_{size}", {EXPERT: SEQUENCE}, asked)]
        if size == sizes[-1]:
            beside.append(read_scores(folder / "score_joint", {EXPERT: JOINT}, asked))
        if any(map(is_single, largest)):
            found[ORACLE] = oracle(largest, pool_domains(folder / f"pool_{size}"), list(found[BASE]))
        for system, by_task in chain.from_iterable(other.items() for other in beside):
            found.setdefault(system, {task: of for task, of in by_task.items() if task in found[BASE]})
        for system, by_task in found.items():
            if [*by_task] != [*found[BASE]]:
                raise ValueError(f"{folder}: {system} was scored on other tasks than the pool of {size}.")
        scores[size] = found
    return Growth(folder, scores)


def read_scores(run: Path, names: Mapping[str, str], asked: Questions) -> Scores:
    """Scores by system and task of an evaluation, in the order of its tasks, systems renamed by `names`.

    The best form control, chosen on validation, is there as `form`. `asked` gets the questions of tasks that are new to
    it.

    Raises:
        FileNotFoundError: the folder is not that of a finished evaluation.
        ValueError: the questions of a task are not those in `asked`.
    """
    scores: Scores = {}
    for (task, system), lines in read_samples(run).items():
        questions = [(line["prompt"], line.get("reference")) for line in lines]
        if asked.setdefault(task, questions) != questions:
            raise ValueError(
                f"{run}: {names.get(system, system)} was scored on other questions of {task} than the systems before "
                "it. Evaluate all with the same task, split and limit."
            )
        scores.setdefault(names.get(system, system), {})[task] = [float(line["score"]) for line in lines]
    for task, chosen in (Results.read(run).selection or {}).items():
        scores.setdefault(FORM, {})[task] = scores[chosen.form][task]
    return scores


def pool_domains(pool: Path) -> list[str]:
    """The domains of the experts that a folder of `scripts/growth.sh` holds."""
    return sorted(path.stem for path in pool.glob("*.safetensors") if path.name != CENTROIDS_FILE)


def oracle(scores: Scores, domains: Sequence[str], tasks: Sequence[str]) -> dict[str, list[float]]:
    """The best score of the base and the experts of some domains, question by question of some tasks.

    Raises:
        ValueError: an expert was not scored.
    """
    names = [BASE, *(f"{EXPERT}:{domain}" for domain in domains)]
    if missing := [name for name in names if name not in scores]:
        raise ValueError(f"{missing[0]} was not scored; run scripts/growth.sh with ORACLE=true to its end.")
    return {task: [max(of) for of in zip(*(scores[name][task] for name in names), strict=True)] for task in tasks}


def growth_table(grown: Sequence[Growth]) -> Table:
    """A row per system, a column per number of experts: the mean over the tasks learned so far."""
    sizes = list(grown[0].scores)
    names = [*DRAWN, BASE]
    rows = [[name, *(percent(_mean(grown, size, name)) for size in sizes)] for name in names]
    rows.append([f"{POOL}, share of the {ORACLE}", *(percent(_share(grown, size)) for size in sizes)])
    return Table(["mean over the tasks learned so far", *map(str, sizes)], [row for row in rows if any(row[1:])])


def tasks_table(grown: Sequence[Growth]) -> Table:
    """A row per task of the largest pool, in the order of learning."""
    size = max(grown[0].scores)
    names = [name for name in (BASE, *reversed(DRAWN)) if _mean(grown, size, name) is not None]
    rows = [
        [task, *(percent(fmean(fmean(one.scores[size][name][task]) for one in grown)) for name in names)]
        for task in grown[0].scores[size][BASE]
    ]
    return Table(["task", *names], rows)


def contrasts(grown: Sequence[Growth]) -> list[Difference]:
    """The pool's accuracy at the largest size minus that of each of CONTRASTS.

    Raises:
        ValueError: the seeds have different sizes.
    """
    size = max(grown[0].scores)
    groups = [Group(name, _rows(grown, size, name), _rows(grown, size, BASE), 0) for name in (POOL, *CONTRASTS)]
    return differences(groups, [f"{POOL} - {other}" for other in CONTRASTS])


def _rows(grown: Sequence[Growth], size: int, system: str) -> list[list[float]]:
    rows = [one.of(size, system) for one in grown]
    if any(row is None for row in rows):
        raise ValueError(
            f"{system} was not scored beside {size} experts with every seed; run scripts/growth.sh to its end."
        )
    return [row for row in rows if row is not None]


def _mean(grown: Sequence[Growth], size: int, system: str) -> float | None:
    """Over tasks and seeds; None where a seed has not scored the system."""
    means = []
    for one in grown:
        by_task = one.scores[size].get(system)
        if by_task is None:
            return None
        means.append(fmean(fmean(of) for of in by_task.values()))
    return fmean(means)


def _share(grown: Sequence[Growth], size: int) -> float | None:
    """What the pool reaches of the oracle; None where there is none."""
    pool, best = _mean(grown, size, POOL), _mean(grown, size, ORACLE)
    return pool / best if pool is not None and best else None


def draw_growth(grown: Sequence[Growth], path: Path) -> None:
    """A line per system over the number of experts, thin ones for single seeds, and the pool's share of the oracle."""
    sizes = list(grown[0].scores)
    shares = [(size, share) for size in sizes if (share := _share(grown, size)) is not None]
    with drawing(path, (11.0 if shares else 7.5, 4.5)) as figure:
        axes, *others = figure.subplots(1, 1 + bool(shares), squeeze=False)[0]
        for number, name in enumerate(DRAWN):
            color = OKABE_ITO[number % len(OKABE_ITO)]
            for one, width in [*((each, 0.6) for each in grown if len(grown) > 1), (None, 2.0)]:
                means = [(size, _mean([one] if one else grown, size, name)) for size in sizes]
                shown = [(size, 100 * mean) for size, mean in means if mean is not None]
                style: dict[str, Any] = {"color": color, "linewidth": width, "markersize": 3 * width}
                if name == OWN:  # where dispatch is right, its line lies upon another
                    style |= {"color": "black", "linestyle": "--", "zorder": 3}
                if shown:
                    axes.plot(*zip(*shown, strict=True), marker="o", label=name if one is None else None, **style)
        axes.set(xlabel="experts in the pool, and tasks learned", ylabel="accuracy on these tasks (%)", ylim=(0, None))
        axes.legend(fontsize=9)
        for beside in others:
            beside.plot(*zip(*((size, 100 * share) for size, share in shares), strict=True), marker="o", color="black")
            beside.set(xlabel="experts in the pool", ylabel=f"{POOL}, share of the {ORACLE} (%)", ylim=(0, 105))
        for panel in (axes, *others):
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.grid(alpha=0.25)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write them and the figure where `--out` says."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.growth", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what scripts/growth.sh made, by seed")
    parser.add_argument("--out", type=Path, help="a folder for growth.md and growth.png")
    options = parser.parse_args(arguments)
    try:
        grown = [read_growth(folder) for folder in options.folders]
        if len({tuple(one.scores) for one in grown}) > 1:
            raise ValueError(
                "the folders have pools of different sizes. Give those that scripts/growth.sh has finished."
            )
        tables = [growth_table(grown), tasks_table(grown), differences_table(contrasts(grown))]
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print("\n\n".join(table.text() for table in tables))
    if options.out is not None:
        draw_growth(grown, options.out / "growth.png")
        with atomic_path(options.out / "growth.md") as partial:
            partial.write_text("\n\n".join(table.markdown() for table in tables) + "\n")


if __name__ == "__main__":
    main()
