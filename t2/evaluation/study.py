"""Evaluations of one pool of experts as tables and figures: python -m t2.evaluation.study RUN [RUN ...] --out FOLDER.

The paper's Tables 2, 3, 5 and 8 and Figures 6 and 7, of whatever the runs hold. Gains are over the best form control,
which each run has chosen on validation, and beside them over the base. A system that ran with several seeds is averaged
over them example by example; intervals are of its difference on the same examples, and count that seeds and examples
vary. Contrasts are those that the runs named, corrected together. Confusion matrices are summed over the runs.
Evaluates nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from t2.evaluation.figures import Difference, plot_confusion, plot_differences
from t2.evaluation.joining import join_runs
from t2.evaluation.study_cells import Study, make_study
from t2.evaluation.study_tables import compared, study_tables
from t2.evaluation.system_names import BASE
from t2.evaluation.table import percent
from t2.run.files import atomic_path


def read_study(runs: Sequence[Path], contrasts: Sequence[str] = ()) -> Study:
    """Join the runs; `contrasts` are asked for beside those that the runs named.

    Raises:
        FileNotFoundError: a folder is not that of a finished evaluation.
        ValueError: what `join_runs` and `join_contrasts` refuse.
    """
    return make_study(join_runs(runs), contrasts)


def draw_scores(study: Study, systems: Sequence[str], tasks: Sequence[str], path: Path, *, form: bool) -> None:
    """Draw the systems' differences to the best form control, or to the base, a panel per task."""
    panels, titles = {}, {}
    for task in tasks:
        about, cells = study.tasks[task], study.cells[task]
        origin = about.form_mean if form else cells[BASE].mean
        panels[task] = {
            system: Difference(paired, [mean - (origin or 0.0) for mean in cell.seeds.values()])
            for system in systems
            if (cell := cells.get(system)) is not None
            and (paired := cell.paired_form if form else cell.paired) is not None
        }
        name = " / ".join(about.forms) if form else BASE
        titles[task] = f"{task}\n{name} {percent(origin)}"
    to = "the best form control" if form else "the base"
    plot_differences(panels, systems, path, titles=titles, to=to)


def write_study(study: Study, folder: Path) -> None:
    """Write study.json, study.md and the figures into `folder`."""
    systems, tasks = compared(study)
    others = [system for system in systems if system != BASE]
    if tasks:
        draw_scores(study, others, tasks, folder / "scores.png", form=False)
    if told := [task for task in tasks if study.tasks[task].form_mean is not None]:
        draw_scores(study, [one for one in others if not one.startswith(f"{BASE}+")], told,
                    folder / "scores_form.png", form=True)  # fmt: skip
    for system, found in study.confusion.items():
        path = folder / f"confusion_{system}.png"
        plot_confusion(found.counts, found.labels, path, title=f"Chosen by {system}")
    parts = [f"## {title}\n\n{table.markdown()}" for title, table in study_tables(study)]
    if study.notes:
        parts.insert(0, "\n".join(f"- {note}" for note in study.notes))
    with atomic_path(folder / "study.md") as partial:
        partial.write_text("\n\n".join(parts) + "\n")
    with atomic_path(folder / "study.json") as partial:
        partial.write_bytes(TypeAdapter(Study).dump_json(study, indent=1) + b"\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Join the runs, print the tables, and write everything into a folder."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.study", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that evaluate.py finished in")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--contrasts", nargs="+", default=[], metavar="'A - B'",
        help="contrasts beside those that the runs named; reported as named after the runs",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        study = read_study(options.runs, options.contrasts)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    write_study(study, options.out)
    print("\n\n".join([*study.notes, *(f"{title}\n{table.text()}" for title, table in study_tables(study))]))


if __name__ == "__main__":
    main()
