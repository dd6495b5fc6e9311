"""A table: rows of cells, drawn by rich for the terminal or written as markdown. What stands in it is for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from rich.console import Console


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """For a terminal, as wide as its cells."""
        table = rich.table.Table(*self.header, box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for row in self.rows:
            table.add_row(*row)
        console = Console(width=10_000, markup=False, emoji=False, highlight=False, color_system=None)
        with console.capture() as captured:
            console.print(table)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def markdown(self) -> str:
        """As GitHub shows it."""
        rows = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def percent(share: float | None) -> str:
    """A share as a percentage; empty where it is unknown."""
    return "" if share is None else f"{100 * share:.1f} %"
