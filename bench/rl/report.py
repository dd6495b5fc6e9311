"""Reports of bench/rl_step.py: ratios to TRL, joining what two environments measured, tables and a figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from measure import ROOT, megabytes, spread, table

from rl.job import PHASES, SYSTEMS
from rl.update import LAYOUTS
from t2.run.files import atomic_path
from t2.run.results import git_commit

REFERENCE = "trl_lora"


def report(job: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON of a measurement, with ratios to the reference where that was measured."""
    reference = next((row for row in rows if row["system"] == REFERENCE and row["status"] == "measured"), None)
    systems = []
    for row in rows:
        ratios = None if reference is None or row["status"] != "measured" else ratios_to(reference, row)
        systems.append({**row, f"ratio_to_{REFERENCE}": ratios})
    return {"git_commit": git_commit(ROOT), "arguments": dict(job), "systems": systems}


def ratios_to(reference: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float]:
    """Ratios of median seconds (systems run in processes of their own, so there are no rounds), and of peak memory."""
    names = ("step", "rollout", "update")
    ratios = {name: median(seconds(row, name)) / median(seconds(reference, name)) for name in names}
    return ratios | {"peak": row["memory"]["peak_bytes"] / reference["memory"]["peak_bytes"]}


def seconds(row: Mapping[str, Any], phase: str) -> list[float]:
    """A phase's seconds in each timed step."""
    return [step[phase] for step in row["steps"]]


def merge(paths: Sequence[Path]) -> dict[str, Any]:
    """The joint report of several measurements; a measured row takes the place of one that was not installed.

    Raises:
        ValueError: they differ in arguments, machine or prompts, or measured one system twice.
    """
    reports = {path: json.loads(path.read_text()) for path in paths}
    first = reports[paths[0]]
    rows: dict[str, dict[str, Any]] = {}
    for path, one in reports.items():
        if one["arguments"] != first["arguments"]:
            names = [key for key, value in one["arguments"].items() if value != first["arguments"].get(key)]
            raise ValueError(f"{path} was measured with another {', '.join(names)} than {paths[0]}; measure it again.")
        for row in one["systems"]:
            known = rows.get(row["system"])
            if row["status"] == "measured" and known is not None and known["status"] == "measured":
                raise ValueError(f"{row['system']} was measured twice, the second time in {path}; leave one out.")
            if known is None or row["status"] == "measured":
                rows[row["system"]] = row
    measured = [row for row in rows.values() if row["status"] == "measured"]
    for key in ("machine", "prompts_sha256"):
        if len({json.dumps(row[key], sort_keys=True) for row in measured}) > 1:
            raise ValueError(f"The systems were measured with different {key}: their ratios would mean nothing.")
    return report(first["arguments"], [rows[name] for name in SYSTEMS if name in rows])


def systems_table(systems: Sequence[Mapping[str, Any]]) -> str:
    """Seconds by phase, tokens per second of the rollout, memory, and ratios to the reference."""
    rows: list[dict[str, Any]] = []
    for row in systems:
        if row["status"] != "measured":
            rows.append({"system": row["system"], "status": row["status"]})
            continue
        phases = {f"{phase} s [min, max]": spread(seconds(row, phase)) for phase in ("step", *PHASES)}
        rate = {"tokens/s": row["tokens_per_step"] / median(seconds(row, "rollout"))}
        last = {"parameters": row["trainable_parameters"]}
        rows.append({"system": row["system"]} | phases | rate | megabytes(row["memory"]) | last)
    key = f"ratio_to_{REFERENCE}"
    ratios = [{f"/ {REFERENCE}": row["system"]} | row[key] for row in systems if row[key] is not None]
    return table(rows) + (f"\n\n{table(ratios)}" if ratios else "")


def layouts_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Seconds of both layouts, their ratio, and ratios to the fewest samples; one line per point."""
    rows = []
    for point in points:
        same = [one for one in points if all(one[key] == point[key] for key in ("model", "prompt_tokens"))]
        times = {layout: median(point["seconds"][layout]) for layout in LAYOUTS}
        growth = {f"{layout} / fewest": times[layout] / median(same[0]["seconds"][layout]) for layout in LAYOUTS}
        about = {key: point[key] for key in ("model", "parameters", "prompt_tokens", "samples")}
        shown = {f"{layout} s": time for layout, time in times.items()}
        rows.append(about | shown | {"plain / shared": point["plain_to_shared"]} | growth)
    return table(rows)


def memory_table(memory: Mapping[str, Mapping[str, int]]) -> str:
    """Megabytes by layout, and their ratios."""
    rows = [{"layout": layout, "held MB": row["held_bytes"] / 1e6} | megabytes(row) for layout, row in memory.items()]
    shared, plain = memory["shared"], memory["plain"]
    peak = shared["peak_bytes"] / plain["peak_bytes"]
    above = (shared["peak_bytes"] - shared["held_bytes"]) / (plain["peak_bytes"] - plain["held_bytes"])
    return f"{table(rows)}\nshared / plain: peak {peak:.2f}, of the update {above:.2f}"


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds of an update, and the ratio of the layouts, over the samples of a prompt."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, length in enumerate(sorted({point["prompt_tokens"] for point in points})):
        line = [point for point in points if point["prompt_tokens"] == length]
        samples, color = [point["samples"] for point in line], f"C{number}"
        for layout, style in zip(LAYOUTS, ("--", "-"), strict=True):
            times = [median(point["seconds"][layout]) for point in line]
            left.plot(samples, times, style, color=color, marker=".", label=f"{layout}, prompt of {length}")
        ratios = [point["plain_to_shared"] for point in line]
        right.plot(samples, ratios, color=color, marker=".", label=f"prompt of {length}")
    left.set(xlabel="samples per prompt", ylabel="seconds per update", xscale="log", yscale="log")
    right.axhline(1.0, color="gray", linewidth=0.8)
    right.set(xlabel="samples per prompt", ylabel="plain rows / shared prompts", xscale="log")
    for axes in (left, right):
        ticks = sorted({point["samples"] for point in points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    with atomic_path(path) as partial:
        figure.savefig(partial, format=path.suffix.removeprefix(".") or "png", dpi=150)
