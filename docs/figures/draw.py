"""Draws the figures of the documentation: python docs/figures/draw.py

The two diagrams show the method (paper, sections 3.1 and 3.2); the two plots show tables of docs/data. All have a white
ground and dark strokes, so that they read the same in print, on light and on dark pages; the colors are those of Okabe
and Ito, and no line is told from another by its color alone.
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"
BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#555555"
INK = "#1a1a1a"
SYSTEMS = (
    *("expert:arithmetic", "expert:reading", "expert:compare", "uniform", "prompt_generate", "prompt", "prompt_soft"),
    *("classifier", "few_shot", "shuffled", "reversed", "random"),
)


def main() -> None:
    """Write the four SVG files beside this script."""
    mpl.rcParams.update({"svg.hashsalt": "t2", "font.size": 11, "text.color": INK, "axes.labelcolor": INK})
    for name, figure in (
        ("svf", svf()),
        ("two_passes", two_passes()),
        ("study", study()),
        ("shared_prompts", shared_prompts()),
    ):
        figure.savefig(HERE / f"{name}.svg", facecolor="white", metadata={"Date": None})


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty drawing of so many tenths of an inch."""
    figure = Figure(figsize=(width / 10, height / 10))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str = INK) -> None:
    """A rectangle around (x, y) with a text in it."""
    frame = {"boxstyle": "round,pad=0,rounding_size=0.8", "fc": "white", "ec": color, "lw": 1.6}
    axes.add_patch(mpl.patches.FancyBboxPatch((x - width / 2, y - height / 2), width, height, **frame))
    axes.text(x, y, text, ha="center", va="center", color=color, linespacing=1.4)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK, bend: float = 0) -> None:
    """An arrow between two points."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.4, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", end, start, arrowprops=style)


def svf() -> Figure:
    """One matrix: W = U diag(s) Vh, of which only the multipliers z are learned."""
    figure, axes = canvas(76, 24)
    y = 13
    box(axes, 4, y, 5, 5, "x")
    box(axes, 17, y, 11, 11, "Vh\n(R, n_in)\nfrozen", GRAY)
    box(axes, 31.5, y, 8.5, 7.5, "s\n(R,)\nfrozen", GRAY)
    box(axes, 45, y, 8.5, 7.5, "z\n(R,)\nlearned", ORANGE)
    box(axes, 59.5, y, 11, 11, "U\n(n_out, R)\nfrozen", GRAY)
    box(axes, 71.5, y, 5, 5, "y")
    for start, end in ((6.5, 11.5), (22.5, 27.25), (35.75, 40.75), (49.25, 54), (65, 69)):
        arrow(axes, (start, y), (end, y))
    axes.text(38, 3.2, "W = U diag(s) Vh        W′ = U diag(s · z) Vh        z = 1: the base model", ha="center")
    axes.text(38, 21.5, "one adapted Linear: only z gets a gradient", ha="center", color=INK)
    return figure


def two_passes() -> Figure:
    """Pass 1 chooses a mixture for each prompt, pass 2 answers with it."""
    figure, axes = canvas(76, 30)
    box(axes, 6, 15, 9, 6, "prompt")
    box(axes, 24, 22, 17, 8, "pass 1: strategy\nwhich experts?", BLUE)
    box(axes, 24, 7, 17, 7, "pool of experts\nz₁, z₂, … , z_K", ORANGE)
    box(axes, 47, 22, 20, 8, "mixture for this prompt\nz′ = 1 + Σ αₖ (zₖ − 1)", ORANGE)
    box(axes, 47, 7, 20, 7, "pass 2: the same model,\nadapted with z′", BLUE)
    box(axes, 69, 7, 11, 6, "completion")
    arrow(axes, (9, 18), (15.5, 21.5))
    arrow(axes, (32.5, 22), (37, 22))
    axes.text(34.6, 23.2, "α", ha="center", fontsize=12)
    arrow(axes, (32.5, 8.5), (40, 18))
    arrow(axes, (47, 18), (47, 10.5))
    arrow(axes, (57, 7), (63.5, 7))
    axes.plot((6, 6, 47, 47), (12, 1.2, 1.2, 2.6), color=INK, lw=1.4)
    arrow(axes, (47, 1.2), (47, 3.5))
    return figure


def rows(name: str) -> list[dict[str, str]]:
    """A table of docs/data."""
    with (DATA / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def study() -> Figure:
    """Differences to the base on tasks that no expert was trained on."""
    table = rows("study")
    tasks = list(dict.fromkeys(row["task"] for row in table))
    figure = Figure(figsize=(9.5, 5.0), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True)
    for axes, task in zip(panels, tasks, strict=True):
        found = {row["system"]: row for row in table if row["task"] == task}
        for system, row in found.items():
            name = system if system in SYSTEMS else system.partition(":")[0]
            if name not in SYSTEMS:
                continue
            y = SYSTEMS.index(name)
            control = name in ("shuffled", "reversed", "random")
            color, marker = (GRAY, "D") if control else (BLUE, "s") if ":" in system else (ORANGE, "o")
            axes.plot((float(row["ci95_low"]), float(row["ci95_high"])), (y, y), color=color, lw=2.2)
            axes.plot(float(row["difference"]), y, marker, color=color, ms=7)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_title(f"{task}\nbase {found['base']['score_percent']} %", fontsize=11)
        axes.set_xlabel("accuracy minus the base's, points")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(SYSTEMS)), SYSTEMS)
    panels[0].set_ylim(len(SYSTEMS) - 0.4, -0.6)
    panels[0].set_ylabel("system")
    return figure


def shared_prompts() -> Figure:
    """How many times faster an update is where samples share their prompt."""
    table = rows("shared_prompts")
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes = figure.subplots()
    looks = {"32": (GREEN, "o", "-"), "128": (BLUE, "s", "--"), "512": (ORANGE, "^", ":")}
    for length, (color, marker, line) in looks.items():
        points = [row for row in table if row["prompt_tokens"] == length]
        axes.plot(
            [int(row["samples"]) for row in points],
            [float(row["plain_by_shared"]) for row in points],
            color=color, marker=marker, ls=line, lw=2, label=f"prompt of {length} tokens",
        )  # fmt: skip
    axes.axhline(1, color=INK, lw=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks((1, 2, 4, 8, 16), ("1", "2", "4", "8", "16"))
    axes.set_xlabel("samples per prompt")
    axes.set_ylabel("update: seconds of plain rows\nby seconds of shared prompts (ratio)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
