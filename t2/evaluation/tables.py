"""Tables of run folders: python -m t2.evaluation.tables RUN [RUN ...], or of a sweep: ... SWEEP.

Reads only what a run wrote (`metrics.csv`, `results.json`); trains and evaluates nothing. Those of a sweep are made by
`t2.evaluation.sweeps`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t2.evaluation.costs import COST_HEADER, cost_cells
from t2.evaluation.figures import plot_learning_curve
from t2.evaluation.results import Confusion, Contrasted, HeldOut, Results, Statistic, seen_text
from t2.evaluation.statistics import Paired, dispatch_accuracy, row_shares
from t2.evaluation.sweeps import is_sweep, write_sweep
from t2.evaluation.system_names import BASE, EXPERT
from t2.evaluation.table import Table, percent
from t2.run.results import CURVE_FILE, METRICS_FILE

if TYPE_CHECKING:
    from t2.adaptation.few_shot import Iteration  # with torch, and a table of finished runs needs none

BAR_CELLS = 30  # of a text bar that means 1

Numbers = Mapping[str, Mapping[str, Mapping[str, float]]]  # by task, system and name


def results_table(results: Results) -> Table:
    """Scores: a row per task and system, with what it cost where that was recorded."""
    passes, nulls, cut = results.pass_seconds or {}, results.null or {}, results.truncated or {}
    tokens = results.tokens or {}
    costs, rows = bool(passes or tokens), []
    for task, systems in results.scores.items():
        for system, score in systems.items():
            pair = results.paired[task].get(system)
            row = [task, system, percent(score.mean) + ("" if score.stderr is None else f" ± {100 * score.stderr:.1f}")]
            row += _difference(pair)
            if results.paired_form:
                row += _difference(results.paired_form.get(task, {}).get(system))
            row += [str(score.n), percent(nulls[task].score if task in nulls else score.majority)]
            if cut:
                row.append(percent(cut[task].get(system)))
            if costs:
                row += cost_cells(passes.get(task, {}).get(system), tokens.get(task, {}).get(system))
            rows.append(row)
    header = ["task", "system", "score", "vs base", "95% interval", "p"]
    header += ["vs form", "95% interval", "p"] * bool(results.paired_form)
    header += ["n", "null" if nulls else "majority", *["cut"] * bool(cut), *COST_HEADER * costs]
    return Table(header, rows)


def _difference(pair: Paired | None) -> list[str]:
    """Cells of a paired difference: its mean, its interval, its p-value."""
    if pair is None:
        return ["", "", ""]
    low, high = pair.ci95
    return [f"{100 * pair.difference:+.1f}", f"[{100 * low:+.1f}, {100 * high:+.1f}]", f"{pair.p_value:.2g}"]


def contrasts_table(contrasts: Sequence[Contrasted]) -> Table:
    """Contrasts named before the run: a row per contrast and task."""
    rows = [
        [one.task, one.contrast, f"{one.first} - {one.second}", *_difference(one.paired), f"{one.p_holm:.2g}"]
        for one in contrasts
    ]
    return Table(["task", "contrast", "systems", "difference", "95% interval", "p", "p (Holm)"], rows)


def controls_text(results: Results) -> str:
    """Per task, what was chosen on validation, and what guessing scores."""
    lines = []
    for task, chosen in (results.selection or {}).items():
        single = f", best single expert {chosen.single}" if chosen.single else ""
        lines.append(f"{task}: best form control {chosen.form}{single} ({chosen.n} examples of {chosen.split})")
    for task, null in (results.null or {}).items():
        below = " - the base is below it" if results.scores[task][BASE].mean < null.score else ""
        lines.append(f"{task}: guessing scores {percent(null.score)} ({null.guess}){below}")
    return "\n".join(lines)


def number_table(numbers: Numbers, form: str) -> Table:
    """A row per task and system, a column per name; `form` is a format such as `.2f`, and unknown numbers are blank."""
    names = list(dict.fromkeys(name for systems in numbers.values() for row in systems.values() for name in row))
    rows = [
        [task, system, *(f"{row[name]:{form}}" if name in row else "" for name in names)]
        for task, systems in numbers.items()
        for system, row in systems.items()
    ]
    return Table(["task", "system", *names], rows)


def weights_table(weights: Numbers) -> Table:
    """Mean mixing weights of the systems that are not a single expert, a column per domain."""
    mixed = {
        task: {system: row for system, row in systems.items() if not system.startswith(f"{EXPERT}:")}
        for task, systems in weights.items()
    }
    return number_table(mixed, ".2f")


def groups_table(by_group: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Statistic]]]]) -> Table:
    """Scores by group: a row per task, kind and value, a column per system."""
    systems = list(dict.fromkeys(system for table in by_group.values() for system in table))
    rows = []
    for task, table in by_group.items():
        first = next(iter(table.values()))  # every system has the same examples
        for kind, values in first.items():
            for value, of_first in values.items():
                cells = [percent(table[system][kind][value].mean) if system in table else "" for system in systems]
                rows.append([task, kind, value, str(of_first.n), *cells])
    return Table(["task", "group", "value", "n", *systems], rows)


def confusion_table(confusion: Confusion) -> Table:
    """Shares of what was chosen: a row per true domain that has prompts, a column per label."""
    shares = row_shares(confusion.counts)
    rows = [
        [label, *(f"{share or 0.0:.2f}" for share in parts), str(sum(row))]
        for label, row, parts in zip(confusion.labels, confusion.counts, shares, strict=True)
        if any(row)
    ]
    return Table(["true \\ chosen", *confusion.labels, "n"], rows)


def held_out_table(held_out: Mapping[str, Mapping[str, HeldOut]]) -> Table:
    """Losses on held-out texts in nats per token: a row per texts and system."""
    rows = []
    for name, systems in held_out.items():
        for system, one in systems.items():
            cells = ["", "", ""]
            if one.increase is not None:
                low, high = one.increase.ci95
                cells = [f"{one.increase.difference:+.4f}", f"[{low:+.4f}, {high:+.4f}]", f"{one.increase.p_value:.2g}"]
            kl = "" if one.kl is None else f"{one.kl:.4f}"
            rows.append([name, system, f"{one.loss:.4f}", *cells, kl, str(one.texts)])
    return Table(["texts", "system", "loss", "vs base", "95% interval", "p", "KL(base || system)", "n"], rows)


def history_table(history: Sequence[Iteration]) -> Table:
    """The course of a search for a mixture: a row per generation, `best` so far and `mean` of its members."""
    rows = []
    for line in history:
        weights, spread = (" ".join(f"{value:.2f}" for value in of) for of in (line.weight_mean, line.weight_std))
        rows.append([str(line.iteration), f"{line.best:.3f}", f"{line.mean:.3f}", weights, spread])
    return Table(["iteration", "best", "mean", "weights", "±"], rows)


def bars(values: Mapping[str, float]) -> str:
    """Numbers by name as text bars, one a line; full length is 1, or the largest number where one is above."""
    if not values:
        return ""
    unit = BAR_CELLS / max(1.0, *(abs(value) for value in values.values()))
    width = max(map(len, values))
    return "\n".join(
        f"{name.ljust(width)}  {('█' if value >= 0 else '░') * round(abs(value) * unit):<{BAR_CELLS}}  {value:.3f}"
        for name, value in values.items()
    )


def results_text(results: Results) -> str:
    """All that a results file has for reading, as text."""
    parts = [results_table(results).text()]
    if controls := controls_text(results):
        parts.append(f"Controls:\n{controls}")
    if results.seen:
        parts.append(f"Questions seen before, in training, validation or solved examples:\n{seen_text(results.seen)}")
    if results.contrasts:
        parts.append(f"Contrasts:\n{contrasts_table(results.contrasts).text()}")
    if results.pass_at_k:
        parts.append(f"pass@k:\n{number_table(results.pass_at_k, '.3f').text()}")
    if results.by_group:
        parts.append(f"Scores by group:\n{groups_table(results.by_group).text()}")
    if results.reasons:
        parts.append(f"Completions by reason:\n{number_table(results.reasons, 'd').text()}")
    if results.mixing_weights:
        parts.append(f"Mean mixing weights:\n{weights_table(results.mixing_weights).text()}")
    if results.held_out:
        parts.append(f"Held-out texts, nats per token:\n{held_out_table(results.held_out).text()}")
    for system, found in (results.confusion or {}).items():
        right = percent(dispatch_accuracy(found.counts))
        parts.append(f"Chosen by {system}:\n{confusion_table(found).text()}\nright: {right}")
    return "\n\n".join([*parts, f"Seconds: {seconds_text(results.seconds)}"])


def seconds_text(seconds: Mapping[str, float]) -> str:
    """Seconds by phase in one line."""
    return ", ".join(f"{phase} {value:.1f} s" for phase, value in seconds.items() if value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the results of the given run folders and draw their learning curves side by side; a sweep is one table."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.tables", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that a script or a sweep wrote")
    parser.add_argument("--figure", type=Path, default=Path(CURVE_FILE), help="where the curves are drawn")
    options = parser.parse_args(arguments)
    sweeps = [run for run in options.runs if is_sweep(run)]
    for run in options.runs:
        try:
            print(f"\n{run}\n{write_sweep(run) if run in sweeps else results_text(Results.read(run))}")
        except (OSError, ValueError) as error:
            parser.error(str(error))
    trained = [run for run in options.runs if (run / METRICS_FILE).exists()]
    if trained:
        plot_learning_curve(trained, options.figure)
        print(f"\nLearning curves: {options.figure}")


if __name__ == "__main__":
    main()
