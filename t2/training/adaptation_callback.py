"""Scores two-pass adaptation on a set of benchmarks while an expert is trained.

Every so many steps and at the end, each strategy is fitted and scored on the benchmarks' validation examples, with the
expert in training in the pool. Into the run folder go `adaptation.csv` (a row per step, benchmark and system) and
`confusion.csv` (a row per step, strategy, true domain and chosen label), into the loggers the same numbers, and into
W&B also tables and figures. The test split is never read, and training is left as it was: random states are put back,
and the adapter's parameters are not touched. How systems are scored: `t2.evaluation.benchmark`.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.seed import isolate_rng

from t2.adaptation.strategy import Strategy
from t2.adaptation.two_pass import Pass2
from t2.evaluation.benchmark import Benchmark, labels_of, tasks_of
from t2.evaluation.figures import plot_confusion
from t2.evaluation.report import PASSES, Outcome, compare, summarize_choices
from t2.evaluation.results import Confusion
from t2.evaluation.statistics import dispatch_accuracy
from t2.evaluation.system_names import BASE
from t2.evaluation.systems import name_strategies
from t2.experts.pool import ExpertPool
from t2.policy.generator import Generator
from t2.run.files import atomic_path
from t2.run.metrics_file import read_steps
from t2.run.results import ADAPTATION_FILE, CONFUSION_FILE
from t2.tasks.base import Split
from t2.training.module import ExpertTraining
from t2.training.trained_pool import systems_with

log = logging.getLogger(__name__)
CONFUSION_COLUMNS = ("step", "system", "true", "chosen", "count")

Row = dict[str, Any]


class Adaptation(L.Callback):
    """Scores strategies on benchmarks every `every` steps and at the end, and the base once.

    Args:
        benchmarks: tasks by name, as in conf/benchmarks, where `benchmark_domains` may stand among them.
        strategies: system name -> strategy.
        pool: the other experts; None: the expert in training is the only one.
        every: steps between two evaluations.
        limit: the first so many validation examples of each benchmark.
        shots: support examples that strategies may be fitted to, from `support_split`.
        singles: score each expert by itself, too.
        pass2: how the second pass applies mixtures.
        seed: decides which examples are the support.
    """

    def __init__(
        self,
        *,
        benchmarks: Mapping[str, Any],
        strategies: Mapping[str, Strategy],
        pool: ExpertPool | None = None,
        every: int = 25,
        limit: int = 20,
        shots: int = 10,
        support_split: Split = "train",
        singles: bool = False,
        pass2: Pass2 = "auto",
        seed: int = 0,
    ) -> None:
        """Read the examples, and draw the support examples.

        Raises:
            ValueError: no benchmark, two strategies of one name, too few examples, or numbers outside what is allowed.
        """
        if every < 1:
            raise ValueError(f"adaptation: every={every}; allowed: at least 1.")
        self.benchmark = Benchmark(
            tasks_of(benchmarks),
            split="val",
            limit=limit,
            shots=shots,
            support_split=support_split,
            seed=seed,
            domains=benchmarks.get("benchmark_domains"),
        )
        self.strategies, self.pool = name_strategies(None, strategies), pool
        self.every, self.singles, self.pass2 = every, singles, pass2
        self.base: list[Outcome] = []  # a task each; the base does not change
        self.steps: set[int] = set()  # that were evaluated

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise ValueError now for what would stop the first evaluation.

        An expert in training that does not fit the pool, a benchmark without a domain, an example that does not fit the
        model, or a damaged file of the run.
        """
        pool, _ = self._systems(pl_module)
        self.benchmark.true_domains(labels_of(pool))
        assert isinstance(pl_module, ExpertTraining), "_systems checked it"
        self.benchmark.check_lengths(pl_module.lm)
        for name in (ADAPTATION_FILE, CONFUSION_FILE):
            if (path := Path(trainer.default_root_dir) / name).exists():
                read_steps(path)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Evaluate the expert before the next step, so that a resumed run does as an uninterrupted one."""
        if trainer.global_step and trainer.global_step % self.every == 0:
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the last step, unless it has been."""
        self._evaluate(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The steps that were evaluated."""
        return {"steps": sorted(self.steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.steps = set(state_dict["steps"])

    def _systems(self, module: L.LightningModule) -> tuple[ExpertPool, dict[str, Generator]]:
        """The pool with the expert as it is now, and the systems that use it."""
        assert isinstance(module, ExpertTraining), f"this callback serves ExpertTraining, got {type(module).__name__}"
        expert = module.expert(step=module.global_step, val_before=None, val_after=None)
        generator, pool, systems = systems_with(
            module, expert, self.strategies, pool=self.pool, singles=self.singles, pass2=self.pass2,
            asked="callbacks=adaptation",
        )  # fmt: skip
        return pool, {BASE: generator.with_state({}), **systems}

    def _evaluate(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        step = trainer.global_step
        if step in self.steps:
            return
        if not trainer.is_global_zero:  # the first of several processes evaluates, and the others wait in the next step
            self.steps.add(step)
            return
        pool, systems = self._systems(module)
        labels = labels_of(pool)
        domains = self.benchmark.true_domains(labels)
        assert isinstance(module, ExpertTraining), "_systems checked it"
        log.info("step %d: adaptation", step)
        with module.phases("adaptation"), isolate_rng(include_cuda=True):
            outcomes = self.benchmark.run(systems, domains=domains, known=self.base)
        self.base = [outcome for outcome in outcomes if outcome.report.system == BASE]
        confusion = summarize_choices(outcomes, domains=domains, labels=labels)["confusion"]
        self.steps.add(step)
        base = {outcome.report.task: outcome for outcome in self.base}
        rows = [_row(step, outcome, base[outcome.report.task]) for outcome in outcomes]
        cells = list(_cells(step, confusion))
        run = Path(trainer.default_root_dir)
        _replace_rows(run / ADAPTATION_FILE, step, rows)
        if cells:
            _replace_rows(run / CONFUSION_FILE, step, cells)
        self._log(trainer, rows, cells, confusion)

    def _log(
        self, trainer: L.Trainer, rows: Sequence[Row], cells: Sequence[Row], confusion: Mapping[str, Confusion]
    ) -> None:
        step, figures = trainer.global_step, {}
        metrics = {
            f"adaptation/{row['task']}/{row['system']}/{name}": float(value)
            for row in rows
            for name, value in row.items()
            if name in ("score", *PASSES) or name.startswith("weight:")
        }
        for system, matrix in confusion.items():
            accuracy = dispatch_accuracy(matrix.counts)
            assert accuracy is not None, "a matrix has prompts"
            metrics[f"adaptation/dispatch_accuracy/{system}"] = accuracy
            figures[system] = Path(trainer.default_root_dir) / f"confusion_{system}.png"
            plot_confusion(matrix.counts, matrix.labels, figures[system], title=f"Chosen by {system}, step {step}")
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
            if isinstance(logger, WandbLogger):
                _log_table(logger, "adaptation", rows, step)
                _log_table(logger, "confusion", cells, step)
                for system, path in figures.items():
                    logger.log_image(f"confusion/{system}", images=[str(path)], step=step)


def _row(step: int, outcome: Outcome, base: Outcome) -> Row:
    """A row of adaptation.csv."""
    report = outcome.report
    pair = compare(report, base.report, resamples=1000)
    return {
        "step": step,
        "task": report.task,
        "system": report.system,
        "score": report.mean,
        "stderr": report.stderr,
        "n": len(report.scores),
        "difference": pair.difference,
        "p_value": pair.p_value,
        **{part: report.seconds[part] for part in PASSES if part in report.seconds},
        **{f"weight:{domain}": weight for domain, weight in outcome.mixing_weights.items()},
    }


def _cells(step: int, confusion: Mapping[str, Confusion]) -> Iterator[Row]:
    """The rows of confusion.csv, of the domains that have prompts."""
    for system, matrix in confusion.items():
        for true, counts in zip(matrix.labels, matrix.counts, strict=True):
            if any(counts):
                for chosen, count in zip(matrix.labels, counts, strict=True):
                    yield dict(zip(CONFUSION_COLUMNS, (step, system, true, chosen, count), strict=True))


def _replace_rows(path: Path, step: int, rows: Sequence[Row]) -> None:
    """Write the file's rows of earlier steps and `rows`; its later ones are of a run that was killed and resumed.

    Raises:
        ValueError: the file is damaged.
    """
    known: list[Row] = [row for row in read_steps(path) if int(row["step"]) < step] if path.exists() else []
    columns = list(dict.fromkeys(name for row in [*known, *rows] for name in row))
    with atomic_path(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows([*known, *rows])


def _log_table(logger: WandbLogger, name: str, rows: Sequence[Row], step: int) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    data = [[row.get(column) for column in columns] for row in rows]
    if data:
        logger.log_table(name, columns=columns, data=data, step=step)
