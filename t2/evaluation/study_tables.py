"""The tables of a study."""

from __future__ import annotations

import re
from collections.abc import Sequence

from t2.evaluation.costs import COST_HEADER, cost_cells
from t2.evaluation.statistics import Paired
from t2.evaluation.study_cells import Cell, Study
from t2.evaluation.system_names import BASE
from t2.evaluation.table import Table, percent
from t2.evaluation.tables import confusion_table, number_table

SHOTS = re.compile(r"(?P<system>[^:]+)_(?P<shots>\d+)")  # a strategy; `expert:DOMAIN` may end in a number of its own
CHOSEN_S = 0.05  # pass 1 of a fixed mixture takes less, and its share is no finding


def score_table(study: Study, systems: Sequence[str], task: str) -> Table:
    """A row per system that was run: score, gains, share cut off, share of the oracle, costs (paper, Table 2)."""
    found = {system: cell for system in systems if (cell := study.cells[task].get(system)) is not None}
    costs = any(cell.seconds or cell.tokens for cell in found.values())
    header = ["system", "score", "vs form", "vs base", "cut", "of oracle", "seeds"]
    rows = [
        [
            system,
            f"{100 * cell.mean:.1f} ± {100 * cell.stderr:.1f}",
            _gain(cell.paired_form),
            _gain(cell.paired),
            percent(cell.truncated),
            percent(cell.of_oracle),
            " ".join(f"{100 * mean:.1f}" for mean in cell.seeds.values()) if len(set(cell.seeds.values())) > 1 else "",
            *(cost_cells(cell.seconds, cell.tokens) if costs else ()),
        ]
        for system, cell in found.items()
    ]
    return Table([*header, *COST_HEADER * costs], rows)


def seconds_table(study: Study, tasks: Sequence[str]) -> Table:
    """Seconds and tokens of both passes and the ratio of their seconds (paper, Table 3)."""
    rows = []
    for task in tasks:
        for system, cell in study.cells[task].items():
            if cell.seconds.get("pass1", 0.0) >= CHOSEN_S and cell.seconds["pass2"] >= CHOSEN_S:
                ratio = cell.seconds["pass1"] / cell.seconds["pass2"]
                rows.append([task, system, *cost_cells(cell.seconds, cell.tokens)[2:], f"{100 * ratio:.0f} %"])
    return Table(["task", "system", *COST_HEADER[2:], "pass 1 / pass 2"], rows)


def weights_table(study: Study, systems: Sequence[str], tasks: Sequence[str]) -> Table:
    """Mean mixing weights, a column per domain (paper, Figure 7)."""
    weights = {task: {s: study.cells[task][s].mixing_weights for s in systems if s in study.cells[task]}
               for task in tasks}  # fmt: skip
    return number_table({task: {s: row for s, row in of.items() if row} for task, of in weights.items()}, ".2f")


def contrasts_table(study: Study) -> Table:
    """A row per contrast and task."""
    rows = [
        [one.task, one.contrast, one.named, str(one.seeds), _gain(one.paired), f"{one.paired.p_value:.2g}",
         f"{one.p_holm:.2g}"]
        for one in study.contrasts
    ]  # fmt: skip
    return Table(["task", "contrast", "named", "seeds", "difference", "p", "p (Holm)"], rows)


def shots_of(study: Study) -> dict[str, dict[int, tuple[str, Cell]]]:
    """Task -> shots -> (system, cell), of strategies whose names end in `_SHOTS` (paper, Table 8)."""
    found: dict[str, dict[int, tuple[str, Cell]]] = {}
    for task, systems in study.cells.items():
        for system, cell in systems.items():
            if match := SHOTS.fullmatch(system):
                found.setdefault(task, {})[int(match["shots"])] = (system, cell)
    return {task: dict(sorted(by_shots.items())) for task, by_shots in found.items()}


def compared(study: Study) -> tuple[list[str], list[str]]:
    """The systems that no number of shots tells apart, and the tasks that have such systems besides the base."""
    by_shots = {system for found in shots_of(study).values() for system, _ in found.values()}
    systems = [s for s in dict.fromkeys(s for cells in study.cells.values() for s in cells) if s not in by_shots]
    return systems, [task for task, cells in study.cells.items() if set(cells) - by_shots - {BASE}]


def study_tables(study: Study) -> list[tuple[str, Table]]:
    """All tables with their titles."""
    shots = shots_of(study)
    systems, tasks = compared(study)
    tables = [(_title(study, task), score_table(study, systems, task)) for task in tasks]
    if study.contrasts:
        tables.append(("Contrasts", contrasts_table(study)))
    if tasks:
        tables.append(("Mixing weights", weights_table(study, [s for s in systems if ":" not in s], tasks)))
        tables.append(("Costs of the passes", seconds_table(study, tasks)))
    for task, found in shots.items():
        alike = {SHOTS.sub(r"\g<system>", system) for system, _ in found.values()}  # as configured by default
        names = [BASE, *(system for system, _ in found.values()), *sorted(alike & study.cells[task].keys())]
        tables.append((f"Shots, {_title(study, task)}", score_table(study, names, task)))
    return tables + [(f"Chosen by {system}", confusion_table(found)) for system, found in study.confusion.items()]


def _title(study: Study, task: str) -> str:
    """The task with its number of questions, what guessing scores, and its form control."""
    about, base = study.tasks[task], study.cells[task][BASE]
    parts = [f"{about.n} questions"]
    if about.null is not None:
        below = ", which the base is below" if base.mean < about.null.score else ""
        parts.append(f"guessing scores {percent(about.null.score)} ({about.null.guess}){below}")
    elif base.majority is not None:
        parts.append(f"majority class {percent(base.majority)}")
    if about.form_mean is not None:
        parts.append(f"best form control {' / '.join(about.forms)}, {percent(about.form_mean)}")
    return f"{task}: {'; '.join(parts)}"


def _gain(paired: Paired | None) -> str:
    if paired is None:
        return ""
    low, high = paired.ci95
    return f"{100 * paired.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
