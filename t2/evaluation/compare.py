"""Ways to train against each other, over runs with several seeds: python -m t2.evaluation.compare NAME=RUN,RUN ...

Each NAME is a way to train, and its RUNs are evaluations (of evaluate.py) of what it has trained, one per seed, on the
same questions. Where `t2.evaluation.study` compares systems that were scored side by side in a run, this compares one
system, the expert by default, across runs. Runs are paired by their seed where all groups have the same seeds; else as
they were given, which is said. Intervals count that seeds and questions vary, p-values are corrected by Holm over
the contrasts. Forgetting is the increase of the loss on held-out text in nats a token, of evaluations with `held_out=`;
where both groups of a contrast have two or more of them, it is put against each other, too. Evaluates nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

from t2.evaluation.compare_figures import write_figures
from t2.evaluation.compare_groups import Group, other_texts, read_groups, unpaired
from t2.evaluation.statistics import Paired, compare_runs, holm
from t2.evaluation.system_names import EXPERT, parse_contrast
from t2.evaluation.table import Table, percent
from t2.run.files import atomic_path
from t2.run.messages import did_you_mean


@dataclass(frozen=True)
class Difference:
    """The first group minus the second."""

    first: str
    second: str
    paired: Paired
    p_holm: float = 1.0


def differences(groups: Sequence[Group], contrasts: Sequence[str] = ()) -> list[Difference]:
    """The contrasts, `FIRST - SECOND` each, or else those of every pair of groups.

    Raises:
        ValueError: a contrast names no group.
    """
    pairs = _pairs(groups, contrasts)
    return _corrected([Difference(a.name, b.name, compare_runs(a.scores, b.scores)) for a, b in pairs])


def forgetting_differences(groups: Sequence[Group], contrasts: Sequence[str] = ()) -> list[Difference]:
    """The same contrasts in forgetting, nats a token, of groups with two or more runs that have read the same texts.

    Student's t over the runs, paired: that texts vary does not count.

    Raises:
        ValueError: a contrast names no group.
    """
    pairs = [
        (a, b)
        for a, b in _pairs(groups, contrasts)
        if min(len(a.forgetting), len(b.forgetting)) > 1 and a.texts == b.texts
    ]
    by_run = [[[[value] for value in group.forgetting] for group in pair] for pair in pairs]  # (S, 1) each
    found = [Difference(a.name, b.name, compare_runs(*values)) for (a, b), values in zip(pairs, by_run, strict=True)]
    return _corrected(found)


def _pairs(groups: Sequence[Group], contrasts: Sequence[str]) -> list[tuple[Group, Group]]:
    """The groups of each contrast, or else every pair."""
    known = {group.name: group for group in groups}
    pairs = [parse_contrast(text) for text in contrasts] or list(combinations(known, 2))
    for name in (name for pair in pairs for name in pair):
        if name not in known:
            raise ValueError(f"A contrast names {name!r}; allowed: {', '.join(known)}.{did_you_mean(name, known)}")
    return [(known[first], known[second]) for first, second in pairs]


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """With p-values by Holm over all of them."""
    corrected = holm([one.paired.p_value for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def groups_table(groups: Sequence[Group]) -> Table:
    """A row per group: numbers learned, each run's score, their mean and spread, the gain over the base, forgetting."""
    rows = []
    forgets = any(group.forgetting for group in groups)
    for group in groups:
        spread = f"{100 * stdev(group.means):.1f}" if len(group.means) > 1 else ""
        runs = ", ".join(f"{100 * mean:.1f}" for mean in group.means)
        rows.append(
            [group.name, f"{group.numbers:,}", runs, percent(fmean(group.means)), spread, *_cells(group.gain)[:2]]
        )
        if forgets:
            rows[-1] += [", ".join(f"{one:+.4f}" for one in group.forgetting), _mean(group.forgetting)]
    header = ["", "numbers", "score by run", "mean", "SD", "over the base", "95% interval"]
    return Table([*header, *["forgetting by run", "mean"] * forgets], rows)


def differences_table(found: Sequence[Difference]) -> Table:
    """A row per contrast."""
    rows = [[f"{one.first} - {one.second}", *_cells(one.paired), f"{one.p_holm:.2g}"] for one in found]
    return Table(["contrast", "difference", "95% interval", "p", "p (Holm)"], rows)


def forgetting_table(found: Sequence[Difference]) -> Table:
    """A row per contrast in forgetting."""
    rows = []
    for one in found:
        low, high = one.paired.ci95
        numbers = [f"{one.paired.difference:+.4f}", f"[{low:+.4f}, {high:+.4f}]"]
        rows.append([f"{one.first} - {one.second}", *numbers, f"{one.paired.p_value:.2g}", f"{one.p_holm:.2g}"])
    return Table(["forgetting", "nats a token", "95% interval", "p", "p (Holm)"], rows)


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):+.4f}" if values else ""


def _cells(pair: Paired) -> list[str]:
    low, high = pair.ci95
    return [f"{100 * pair.difference:+.1f}", f"[{100 * low:+.1f}, {100 * high:+.1f}]", f"{pair.p_value:.2g}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.compare", description=__doc__)
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN,RUN", help="evaluations of one way to train, by seed")
    parser.add_argument("--contrast", action="append", default=[], help="'NAME - NAME'; default: every pair")
    parser.add_argument("--system", default=EXPERT, help="the system of each run that is compared (default: expert)")
    parser.add_argument("--markdown", action="store_true", help="as Markdown")
    parser.add_argument("--out", type=Path, help="a folder for the tables (compare.md) and figures")
    options = parser.parse_args(arguments)
    try:
        named = [text.partition("=") for text in options.groups]
        if wrong := [
            text for text, (_, equals, paths) in zip(options.groups, named, strict=True) if not equals * len(paths)
        ]:
            raise ValueError(f"{wrong[0]!r} is no group. Write NAME=RUN,RUN with folders of evaluations.")
        names = [name for name, *_ in named]
        runs = {name: [Path(path) for path in paths.split(",")] for name, _, paths in named}
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} is given twice. Write NAME=RUN,RUN with all runs of a way to train.")
        groups = read_groups(runs, system=options.system)
        tables = [groups_table(groups)]
        if len(groups) > 1 or options.contrast:
            tables.append(differences_table(differences(groups, options.contrast)))
            if forgotten := forgetting_differences(groups, options.contrast):
                tables.append(forgetting_table(forgotten))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    notes = [note for note in (unpaired(groups), other_texts(groups)) if note is not None]
    print("\n\n".join([*(one.markdown() if options.markdown else one.text() for one in tables), *notes]))
    if options.out is not None:
        with atomic_path(options.out / "compare.md") as partial:
            partial.write_text("\n\n".join([*(one.markdown() for one in tables), *notes]) + "\n")
        print("\nWritten:", *[options.out / "compare.md", *write_figures(groups, options.out)], sep="\n")


if __name__ == "__main__":
    main()
