"""Which architectures work: writes the tables of docs/models.md, from random models of a few thousand weights each.

    python bench/zoo.py                    all of them, about a minute
    python bench/zoo.py qwen3_moe mamba2   those rows alone, on the screen

Not done here: anything with trained weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import transformers
from zoo_models import architectures
from zoo_row import Row, examine

from t2.run.files import atomic_path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- zoo: begin -->", "<!-- zoo: end -->"
HEADER = (
    "| architecture | adapted | left | z = 1 | off | merged | prompts | generation | z that move |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    """One row of the table."""
    tick = {True: "yes", False: "**no**"}
    cells = [f"`{row.architecture}`", row.adapted, row.left, tick[row.base], tick[row.off], tick[row.merged]]
    return "| " + " | ".join([*cells, row.prompts, tick[row.generation], row.step]) + " |"


def tables(found: Mapping[str, Row | str]) -> str:
    """The part of the page that is written: the rows, and those without one by reason."""
    rows = [row for row in found.values() if isinstance(row, Row)]
    green = sum(row.is_green for row in rows)
    reasons: dict[str, list[str]] = {}
    for name, row in found.items():
        if isinstance(row, str):
            reasons.setdefault(row, []).append(f"`{name}`")
    head = f"{green} of {len(rows)} architectures are green; {len(found) - len(rows)} others have no row."
    others = [f"- {reason}: {', '.join(names)}" for reason, names in sorted(reasons.items())]
    return "\n".join([BEGIN, "", head, "", HEADER, *map(line, rows), "", "Without a row:", "", *others, "", END])


def main(names: Sequence[str]) -> None:
    """Look at the architectures named, or at all, and write the page."""
    transformers.logging.set_verbosity_error()
    found: dict[str, Row | str] = {}
    for name in names or architectures():
        row = found[name] = examine(name)
        print(line(row) if isinstance(row, Row) else f"{name}: {row}", flush=True)
    if not names:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        with atomic_path(PAGE) as partial:
            partial.write_text(before + tables(found) + rest.partition(END)[2])


if __name__ == "__main__":
    main(sys.argv[1:])
