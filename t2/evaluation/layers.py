"""Where in a model an expert has learned, and where a mixture applies it: by decoder block and kind of matrix.

    python -m t2.evaluation.layers sums=FILE reading=FILE [--mixture RUN] [--out FOLDER]

For each expert the root mean square of z - 1 over the singular values of a block's matrices of one kind; with a mixture
(paper, section 3.2, strategy C) the mean mixing weight α of each expert in each block, which is the same in all of them
unless it was searched for with `strategy.space.per_matrix=true`. How much a multiplier moves the weights depends on its
singular value, too, which is not looked at here. No model is loaded.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.ticker import MaxNLocator
from torch import Tensor

from t2.evaluation.figures import OKABE_ITO, drawing
from t2.evaluation.table import Table
from t2.experts.expert import Expert
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import load_mixture
from t2.experts.pool import ExpertPool

_NUMBERED = re.compile(r"(?P<blocks>.*?)\.(?P<number>\d+)\.(?P<kind>[^\[]+)")

Place = tuple[int, str]  # number of a block, kind of matrix


def place_of(module: str) -> Place:
    """The block and the kind of a matrix by its name; the matrices of a mixture of experts are of one kind.

    Raises:
        ValueError: the name has no number of a block.
    """
    found = _NUMBERED.match(module)
    if found is None:
        raise ValueError(f"{module!r} is in no numbered block, so it has no place by layer.")
    return int(found["number"]), found["kind"]


def movement(expert: Expert) -> dict[Place, float]:
    """The root mean square of z - 1 by place.

    Raises:
        ValueError: a matrix in no numbered block.
    """
    squares: defaultdict[Place, list[Tensor]] = defaultdict(list)
    for module, z in expert.scales.items():
        squares[place_of(module)].append((z - 1.0).double().square())
    return {
        place: (sum(float(one.sum()) for one in parts) / sum(len(one) for one in parts)) ** 0.5
        for place, parts in squares.items()
    }


def mean_weights(mixture: Mixture, pool: ExpertPool) -> dict[str, dict[int, float]]:
    """Domain -> block -> the mean mixing weight of its matrices.

    Raises:
        ValueError: the mixture is for another pool, or a matrix is in no numbered block.
    """
    pool.check_mixture(mixture)
    blocks = [place_of(module)[0] for module in pool.modules]
    found: dict[str, dict[int, float]] = {}
    for domain, row in zip(pool.domains, mixture.weights, strict=True):
        by_matrix = row if len(row) == len(blocks) else row * len(blocks)
        found[domain] = {
            block: fmean(weight for weight, of in zip(by_matrix, blocks, strict=True) if of == block)
            for block in sorted(set(blocks))
        }
    return found


def movement_table(moved: Mapping[Place, float]) -> Table:
    """Blocks by kinds, in percent; empty where a block has no such matrix."""
    blocks, kinds = _axes(moved)
    rows = [
        [str(block), *(f"{100 * moved[block, kind]:.2f}" if (block, kind) in moved else "" for kind in kinds)]
        for block in blocks
    ]
    return Table(["block", *kinds], rows)


def weights_table(weights: Mapping[str, Mapping[int, float]]) -> Table:
    """Blocks by domains."""
    blocks = list(next(iter(weights.values())))
    return Table(
        ["block", *weights], [[str(block), *(f"{of[block]:.3f}" for of in weights.values())] for block in blocks]
    )


def _axes(moved: Mapping[Place, float]) -> tuple[list[int], list[str]]:
    return sorted({block for block, _ in moved}), list(dict.fromkeys(kind for _, kind in sorted(moved)))


def draw_movement(moved: Mapping[str, Mapping[Place, float]], path: Path) -> None:
    """A map for each expert, block by kind, in one scale of colours."""
    highest = 100 * max(value for of in moved.values() for value in of.values())
    with drawing(path, (4.0 * len(moved) + 1.0, 7.0)) as figure:
        shown: Any = None
        panels = figure.subplots(1, len(moved), squeeze=False)[0]
        for axes, (domain, of) in zip(panels, moved.items(), strict=True):
            blocks, kinds = _axes(of)
            values = [[100 * of.get((block, kind), float("nan")) for kind in kinds] for block in blocks]
            shown = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis", vmin=0.0, vmax=highest)
            axes.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right", fontsize=8)
            axes.set_yticks(range(0, len(blocks), 5), [str(block) for block in blocks[::5]])
            axes.set(title=domain, ylabel="block")
        figure.colorbar(shown, ax=list(panels), label="root mean square of z - 1 (%)")


def draw_weights(weights: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """A line for each expert over the blocks."""
    with drawing(path, (7.5, 4.0)) as figure:
        axes = figure.subplots()
        for number, (domain, of) in enumerate(weights.items()):
            axes.plot(list(of), list(of.values()), "o-", color=OKABE_ITO[number % len(OKABE_ITO)], label=domain)
        axes.set(xlabel="block", ylabel="mixing weight α, mean of the block's matrices")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and draw them where `--out` says."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.layers", description=__doc__)
    parser.add_argument("experts", nargs="+", metavar="DOMAIN=FILE", help="experts of one model, or their runs")
    parser.add_argument("--mixture", type=Path, help="a mixture.json of these experts, or the run that wrote it")
    parser.add_argument("--out", type=Path, help="a folder for the figures")
    options = parser.parse_args(arguments)
    try:
        pool = ExpertPool.load(_named(options.experts))
        if pool.loras:
            raise ValueError(f"{', '.join(pool.loras)} is a LoRA, which has no z. Give experts of SVF alone.")
        moved = {domain: movement(expert) for domain, expert in pool.svf.items()}
        weights = None if options.mixture is None else mean_weights(load_mixture(options.mixture, pool), pool)
        written = [] if options.out is None else _draw(moved, weights, options.out)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    for domain, of in moved.items():
        print(f"{domain}: root mean square of z - 1, in %\n{movement_table(of).text()}\n")
    if weights is not None:
        print(f"Mean mixing weight\n{weights_table(weights).text()}\n")
    if written:
        print("Written:", *written, sep="\n")


def _named(experts: Sequence[str]) -> dict[str, str]:
    """Domain -> file."""
    named: dict[str, str] = {}
    for text in experts:
        domain, _, file = text.partition("=")
        if not file:
            raise ValueError(f"{text!r} is no expert. Write DOMAIN=FILE, with a file or the folder of a run.")
        if domain in named:
            raise ValueError(f"{domain!r} is given twice: {named[domain]} and {file}. Give each a domain of its own.")
        named[domain] = file
    return named


def _draw(
    moved: Mapping[str, Mapping[Place, float]], weights: Mapping[str, Mapping[int, float]] | None, folder: Path
) -> list[Path]:
    """The files that were written into the folder."""
    written = [folder / "movement_by_layer.png"]
    draw_movement(moved, written[0])
    if weights is not None:
        written.append(folder / "weights_by_layer.png")
        draw_weights(weights, written[1])
    return written


if __name__ == "__main__":
    main()
