"""Which architectures work: writes the tables of docs/models.md, from random models of a few thousand weights each.

    python bench/zoo.py                         all of them, about two minutes
    python bench/zoo.py qwen3_moe mamba2        those rows alone, on the screen
    python bench/zoo.py --vision gemma3 llava   those that take images

With `--vision` alone, only the second table is written. Not done here: anything with trained weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import transformers
from zoo_models import architectures
from zoo_row import Row, examine
from zoo_vision_models import vision_architectures

from t2.run.files import atomic_path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- zoo: begin -->", "<!-- zoo: end -->"
VISION_BEGIN, VISION_END = "<!-- vision zoo: begin -->", "<!-- vision zoo: end -->"
HEADER = (
    "| architecture | adapted | left | z = 1 | off | merged | states | prompts | generation | z that move |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    """One row of the table."""
    tick = {True: "yes", False: "**no**", None: "refused"}
    exact = [tick[one] for one in (row.base, row.off, row.merged, row.states)]
    cells = [f"`{row.architecture}`", row.adapted, row.left, *exact]
    return "| " + " | ".join([*cells, row.prompts, tick[row.generation], row.step]) + " |"


def tables(found: Mapping[str, Row | str], begin: str, end: str) -> str:
    """A part of the page that is written: the rows, and those without one by reason."""
    rows = [row for row in found.values() if isinstance(row, Row)]
    green = sum(row.is_green for row in rows)
    reasons: dict[str, list[str]] = {}
    for name, row in found.items():
        if isinstance(row, str):
            reasons.setdefault(row, []).append(f"`{name}`")
    head = f"{green} of {len(rows)} architectures are green; {len(found) - len(rows)} others have no row."
    others = [f"- {reason}: {', '.join(names)}" for reason, names in sorted(reasons.items())]
    return "\n".join([begin, "", head, "", HEADER, *map(line, rows), "", "Without a row:", "", *others, "", end])


def look(names: Sequence[str], *, vision: bool) -> dict[str, Row | str]:
    """Look at the architectures named, a line on the screen for each."""
    found: dict[str, Row | str] = {}
    for name in names:
        row = found[name] = examine(name, vision=vision)
        print(line(row) if isinstance(row, Row) else f"{name}: {row}", flush=True)
    return found


def main(arguments: Sequence[str]) -> None:
    """Look at the architectures named, or at all, and write the page."""
    transformers.logging.set_verbosity_error()
    names = [name for name in arguments if name != "--vision"]
    if names:
        look(names, vision="--vision" in arguments)
        return
    parts = {"--vision": (VISION_BEGIN, VISION_END, vision_architectures())}
    if "--vision" not in arguments:
        parts["text"] = (BEGIN, END, architectures())
    for kind, (begin, end, all_names) in parts.items():
        before, _, rest = PAGE.read_text().partition(begin)
        found = look(all_names, vision=kind == "--vision")
        with atomic_path(PAGE) as partial:
            partial.write_text(before + tables(found, begin, end) + rest.partition(end)[2])


if __name__ == "__main__":
    main(sys.argv[1:])
