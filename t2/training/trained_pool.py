"""Two-pass adaptation with the expert that is being trained, by itself or beside those of a pool.

`AfterTraining` is `strategy=` of train.py: once training has ended, the strategy is fitted and scored with the best
expert in the pool, on the validation examples that chose it. During training, `t2.training.adaptation_callback` scores
strategies on whole benchmarks. The test split is never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2.adaptation.strategy import Strategy
from t2.adaptation.two_pass import Pass2
from t2.evaluation.benchmark import Benchmark, labels_of
from t2.evaluation.figures import plot_confusion
from t2.evaluation.report import summarize_choices, summarize_tokens
from t2.evaluation.systems import name_strategies, pool_systems
from t2.experts.expert import EXPERT_FILE, Expert
from t2.experts.pool import ExpertPool
from t2.experts.trained import Trained, check_mixable
from t2.policy.generator import AdaptableGenerator, Generator
from t2.tasks.base import Split, Task
from t2.training.module import ExpertTraining


def systems_with(
    module: ExpertTraining,
    expert: Trained,
    strategies: Mapping[str, Strategy],
    *,
    pool: ExpertPool | None,
    singles: bool,
    pass2: Pass2,
    asked: str,
) -> tuple[AdaptableGenerator, ExpertPool, dict[str, Generator]]:
    """The module's generator, the pool with `expert` under the module's domain, and the systems that use it.

    Raises:
        ValueError: the generator or the adapter cannot mix, which `asked` (a key) would do, or the expert does not go
            with the pool.
    """
    generator, domain = module.generator, module.metadata.domain
    if not isinstance(generator, AdaptableGenerator):
        raise ValueError(f"{type(generator).__name__} cannot apply mixtures; use generation=hf or generation=vllm.")
    check_mixable(module.adapter, [asked])
    assert isinstance(expert, Expert), "the adapter has multipliers"
    whole = ExpertPool({domain: expert}) if pool is None else pool.with_expert(domain, expert)
    systems = pool_systems(generator, whole, strategies, singles=singles, uniform=False, all_at_1=False, pass2=pass2)
    return generator, whole, dict(systems)


@dataclass(frozen=True)
class AfterTraining:
    """What is scored after training: a strategy on the validation examples of the task that is trained.

    Attributes:
        strategies: one strategy, by its name.
        pool: the other experts; None: the trained one is the only one.
    """

    strategies: Mapping[str, Strategy]
    benchmark: Benchmark
    pool: ExpertPool | None
    pass2: Pass2

    @classmethod
    def of(
        cls,
        strategy: Strategy,
        task: Task,
        *,
        pool: ExpertPool | None,
        limit: int | None,
        shots: int,
        support_split: Split,
        pass2: Pass2,
        seed: int,
        workers: int,
    ) -> AfterTraining:
        """Read the examples and draw the support.

        Raises:
            ValueError: what `name_strategies` and `Benchmark` refuse.
        """
        benchmark = Benchmark(
            [task],
            split="val",
            limit=limit,
            shots=shots if strategy.wants_support else 0,
            support_split=support_split,
            seed=seed,
            workers=workers,
        )
        return cls(name_strategies(strategy, {}), benchmark, pool, pass2)

    @property
    def name(self) -> str:
        """The strategy's."""
        return next(iter(self.strategies))

    def systems(self, module: ExpertTraining, expert: Trained) -> tuple[ExpertPool, dict[str, Generator]]:
        """The pool with the expert, and the strategy's system, without one where the strategy is the base.

        Raises:
            ValueError: as `systems_with`.
        """
        _, pool, systems = systems_with(
            module, expert, self.strategies, pool=self.pool, singles=False, pass2=self.pass2, asked="strategy="
        )
        return pool, systems

    def check(self, module: ExpertTraining) -> None:
        """Raise ValueError, before training, for what would stop `results` after it."""
        self.systems(module, module.expert(step=0, val_before=None, val_after=None))

    def results(self, module: ExpertTraining, run: Path) -> tuple[dict[str, tuple[float, ...]], dict[str, Any]]:
        """Fit and score the strategy with the best expert, which lies in the folder `run`.

        Returns:
            Scores per example of its system, none where the strategy is the base; and the parts of `results.json` that
            say what it chose, of which confusion matrices are also drawn.
        """
        pool, systems = self.systems(module, Expert.load(run / EXPERT_FILE))
        domains = {task.name: module.metadata.domain for task in self.benchmark.tasks}
        with module.phases("adaptation"):
            outcomes = self.benchmark.run(systems, domains=domains)
        parts = {
            "strategy": self.name,
            "experts": list(pool.domains),
            **summarize_tokens(outcomes),
            **summarize_choices(outcomes, domains=domains, labels=labels_of(pool)),
        }
        for system, found in parts["confusion"].items():
            plot_confusion(found.counts, found.labels, run / f"confusion_{system}.png", title=f"Chosen by {system}")
        return {outcome.report.system: outcome.report.scores for outcome in outcomes}, parts
