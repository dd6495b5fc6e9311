"""Makes a W&B dashboard of t2's runs: python -m t2.evaluation.dashboard --entity NAME [--project t2] [--group SWEEP]

A workspace has a section for what a training run logs, and one for what an evaluation does. With `--group`, a report on
one sweep or study is made beside it. W&B's `wandb-workspaces` writes both; nothing is read from run folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import wandb

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import Report
    from wandb_workspaces.workspaces import Workspace

STEP = "trainer/global_step"
# Section -> its charts: a title and the metrics in one chart, all by step.
TRAINING: dict[str, dict[str, tuple[str, ...]]] = {
    "Learning": {
        "Accuracy on validation": ("val/score",),
        "Score of the samples": ("train/score",),
        "Share of prompts that teach": ("train/informative_prompts",),
        "KL to the base": ("train/kl",),
    },
    "The adapter": {
        "Deviation of the multipliers": ("scales/std",),
        "Largest change of a multiplier": ("scales/max_change",),
        "Norm of the gradient": ("train/grad_norm",),
        "Learning rate": ("train/lr",),
    },
    "Completions": {
        "Tokens of a completion": ("rollout/length", "rollout/length_max"),
        "Share that the budget cut off": ("rollout/truncated",),
        "Tokens in all": ("rollout/tokens_total",),
    },
    "Time": {
        "Tokens per second of a rollout": ("rollout/tokens_per_second",),
        "Seconds of a step": ("seconds/rollout", "seconds/update"),
    },
}
# At the end of a run, a bar for each.
ENDS = {"Gain on validation": ("val/base", "val/expert", "val/gain"), "Numbers learned": ("trainable_parameters",)}
TABLES = ("validation", "samples", "results", "contrasts", "completions")
SWEPT = ("optimizer.lr", "seed", "steps")  # of the configuration, against the gain


def charts() -> list[tuple[str, list[Any]]]:
    """Sections with their panels."""
    wr = _reports()
    sections = [
        (name, [wr.LinePlot(title=title, x=STEP, y=list(metrics)) for title, metrics in plots.items()])
        for name, plots in TRAINING.items()
    ]
    axes = [wr.ParallelCoordinatesPlotColumn(metric=f"c::{key}") for key in SWEPT]
    swept = wr.ParallelCoordinatesPlot(columns=[*axes, wr.ParallelCoordinatesPlotColumn(metric="val/gain")])
    bars = [wr.BarPlot(title=title, metrics=list(metrics)) for title, metrics in ENDS.items()]
    tables = [wr.WeavePanelSummaryTable(table_name=name) for name in TABLES]
    return [*sections, ("Compared", [*bars, swept]), ("Tables", tables)]


def workspace(entity: str, project: str) -> Workspace:
    """The workspace, not yet saved."""
    import wandb_workspaces.workspaces as ws

    sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in charts()]
    return ws.Workspace(entity=entity, project=project, name="t2", sections=sections)


def report(entity: str, project: str, group: str) -> Report:
    """A report on the runs of one group, which is a sweep's folder or `base_model-task`; not yet saved."""
    wr = _reports()
    blocks: list[Any] = [wr.P(f"Runs of the group {group}. Scores and gains are shares of 1, times are seconds.")]
    for name, panels in charts():
        runs = wr.Runset(entity=entity, project=project, name=group, filters=f"Group == '{group}'")
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    made: Report = wr.Report(entity=entity, project=project, title=group, description="Made by t2", blocks=blocks)
    return made


def _reports() -> Any:
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError as error:
        raise ImportError(
            'A dashboard is made by wandb-workspaces. Run: pip install "transformer2[dashboard]"'
        ) from error
    return wr


def main(arguments: Sequence[str] | None = None) -> None:
    """Save the workspace, and a report where a group is named; prints their addresses."""
    parser = argparse.ArgumentParser(prog="python -m t2.evaluation.dashboard", description=__doc__)
    parser.add_argument("--entity", required=True, help="the user or team that the project belongs to")
    parser.add_argument("--project", default="t2", help="the project of the runs (default: t2)")
    parser.add_argument("--group", help="make a report, too, on the runs of this group")
    options = parser.parse_args(arguments)
    try:
        made: list[Any] = [workspace(options.entity, options.project)]
        if options.group:
            made.append(report(options.entity, options.project, options.group))
        for one in made:
            one.save()
            print(one.url)
    except (ImportError, wandb.errors.Error) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
