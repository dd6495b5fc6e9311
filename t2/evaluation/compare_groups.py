"""Evaluations of ways to train, a group of runs each: what `t2.evaluation.compare` puts against each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from t2.evaluation.joining import check_distinct, read_samples
from t2.evaluation.results import Results
from t2.evaluation.statistics import Paired, compare_runs
from t2.evaluation.system_names import BASE, EXPERT
from t2.run.messages import did_you_mean
from t2.run.results import METRICS_FILE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """The runs of one way to train: scores (S, n) of a system and of the base, and what was learned."""

    name: str
    scores: list[list[float]]
    base: list[list[float]]
    numbers: int  # trained
    forgetting: list[float] = field(default_factory=list)  # increase of the loss on held-out text, by run; or empty
    texts: list[str] = field(default_factory=list)  # of which forgetting is, by run
    trained: list[Path] = field(default_factory=list)  # folders of the training runs that are still there
    seeds: list[int] = field(default_factory=list)  # by run

    @property
    def means(self) -> list[float]:
        """The mean score of each run."""
        return [fmean(row) for row in self.scores]

    @property
    def gains(self) -> list[float]:
        """The mean difference of each run to the base."""
        return [fmean(row) - fmean(base) for row, base in zip(self.scores, self.base, strict=True)]

    @property
    def gain(self) -> Paired:
        """The mean difference to the base, over runs and questions."""
        return compare_runs(self.scores, self.base)


def read_groups(runs: Mapping[str, Sequence[Path]], *, system: str = EXPERT) -> list[Group]:
    """Read the runs of each group.

    Raises:
        FileNotFoundError: a folder is not that of a finished evaluation.
        ValueError: a run twice in a group, runs of several tasks, other questions than those of the first run, a system
            that was not scored, groups with different numbers of runs, or runs of a group that trained different
            amounts of numbers.
    """
    sizes = {name: len(paths) for name, paths in runs.items()}
    if len(set(sizes.values())) != 1:
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"Runs are paired, and {told}. Give each name as many, in the order of their seeds.")
    for paths in runs.values():
        check_distinct(paths)
    runs = _by_seed(runs)
    first = next(iter(runs.values()))[0]
    asked = None
    groups = []
    for name, paths in runs.items():
        group = Group(name, [], [], 0)
        for path in paths:
            questions, scores, base = _read(path, system)
            if asked is not None and questions != asked:
                raise ValueError(
                    f"{path} has other questions than {first}, so that they cannot be compared. Evaluate all runs with "
                    "the same task, split and limit."
                )
            asked = questions
            group.scores.append(scores)
            group.base.append(base)
            results = Results.read(path)
            if group.scores[1:] and results.trainable_parameters != group.numbers:
                raise ValueError(
                    f"{path} has trained {results.trainable_parameters:,} numbers, and the run of {name} before it "
                    f"{group.numbers:,}: they are not of one way to train. Give each way a name of its own."
                )
            group = replace(group, numbers=results.trainable_parameters)
            group.seeds.append(results.seed)
            for increase, texts in _forgetting(results, system):
                group.forgetting.append(increase)
                group.texts.append(texts)
            if results.expert is not None and (Path(results.expert) / METRICS_FILE).is_file():
                group.trained.append(Path(results.expert))
        _drop_part(group)
        groups.append(group)
    return groups


def _drop_part(group: Group) -> None:
    """Forget the forgetting of a group whose runs have not all read the same texts, and say so."""
    read = len(group.forgetting)
    if 0 < read < len(group.scores):
        log.warning("%s: %d of %d runs read held-out texts, so none counts.", group.name, read, len(group.scores))
    elif len(set(group.texts)) > 1:
        told = "; ".join(dict.fromkeys(group.texts))
        log.warning("%s: runs read different held-out texts, so none counts (%s).", group.name, told)
    else:
        return
    group.forgetting.clear()
    group.texts.clear()


def unpaired(groups: Sequence[Group]) -> str | None:
    """What to say where runs of several groups are not paired by their seed; None where they are."""
    first = groups[0].seeds
    if len(groups) == 1 or (len(set(first)) == len(first) and all(group.seeds == first for group in groups)):
        return None
    told = "; ".join(f"{group.name}: {', '.join(map(str, group.seeds))}" for group in groups)
    return f"Runs are paired in the order given, not by seed, since not all have the same seeds once each ({told})."


def other_texts(groups: Sequence[Group]) -> str | None:
    """What to say where forgetting is not of the same texts in all groups that have it; None where it is."""
    read = {group.name: group.texts[0] for group in groups if group.texts}
    if len(set(read.values())) < 2:
        return None
    told = "; ".join(f"{name}: {texts}" for name, texts in read.items())
    return f"Forgetting is not compared between groups that read different texts ({told})."


def _by_seed(runs: Mapping[str, Sequence[Path]]) -> Mapping[str, Sequence[Path]]:
    """The runs in the order of their seeds, where all groups have the same and each once; else as they were given."""
    seeds = {name: [Results.read(path).seed for path in paths] for name, paths in runs.items()}
    alike = len({tuple(sorted(of)) for of in seeds.values()}) == 1
    if not alike or any(len(set(of)) < len(of) for of in seeds.values()):
        return runs
    return {name: [path for _, path in sorted(zip(seeds[name], paths, strict=True))] for name, paths in runs.items()}


def _read(path: Path, system: str) -> tuple[list[tuple[object, ...]], list[float], list[float]]:
    """A run's questions, and the scores of the system and of the base."""
    found = read_samples(path)
    tasks = list(dict.fromkeys(task for task, _ in found))
    if len(tasks) != 1:
        raise ValueError(f"{path} has the tasks {', '.join(tasks)}. Give runs of one.")
    has = [name for _, name in found]
    for wanted in (system, BASE):
        if wanted not in has:
            raise ValueError(f"{path} has not scored {wanted}: it has {', '.join(has)}.{did_you_mean(wanted, has)}")
    lines, base = (found[tasks[0], name] for name in (system, BASE))
    questions: list[tuple[object, ...]] = [(tasks[0], one["prompt"], one.get("reference")) for one in lines]
    return questions, [float(one["score"]) for one in lines], [float(one["score"]) for one in base]


def _forgetting(results: Results, system: str) -> list[tuple[float, str]]:
    """The increase of the loss on the first held-out texts, and which these are; empty where it was not measured."""
    for name, systems in (results.held_out or {}).items():
        one = systems.get(system)
        if one is None or one.increase is None:
            return []
        return [(one.increase.difference, f"{name}: {one.texts} texts of {one.tokens} tokens")]
    return []
