"""The systems that are compared on the same examples; what their names mean is said in `t2.evaluation.system_names`.

All but `base` and `expert` are two-pass systems, so that seconds and mixtures are known of each. Nothing here generates
or scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from t2.adaptation.few_shot import Iteration
from t2.adaptation.fixed import Base, Fixed
from t2.adaptation.strategy import Strategy
from t2.adaptation.two_pass import Pass2, TwoPass, call_seed
from t2.evaluation.system_names import ALL, BASE, DRAWN, EXPERT, FITTED, RESERVED, UNIFORM, parse_control
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.experts.transfer import Control
from t2.experts.transfer import transfer as transfer_expert
from t2.policy.generator import AdaptableGenerator
from t2.tasks.base import Task


@runtime_checkable
class Searcher(Strategy, Protocol):
    """A strategy that finds one mixture for a task, and can save it."""

    shots: int  # how many support examples it uses, the first of those given
    mixture: Mixture | None
    history: Sequence[Iteration]

    def save(self, path: Path, pool: ExpertPool, task: Task) -> None:
        """Write the mixture; ValueError where none was found yet."""
        ...


def name_strategies(strategy: Strategy | None, others: Mapping[str, Strategy]) -> dict[str, Strategy]:
    """The strategies to score by system name: `strategy` under its own name, `others` under those given.

    Raises:
        ValueError: two of one name, or a name that means something else.
    """
    named = dict(others)
    if strategy is not None:
        if strategy.name in named:
            raise ValueError(
                f"Two strategies are called {strategy.name!r}. Give one another name: +strategy@strategies.NAME=CHOICE."
            )
        named = {strategy.name: strategy, **named}
    for name, one in named.items():
        if (
            name in RESERVED
            or FITTED.fullmatch(name)
            or name.startswith((f"{EXPERT}:", f"{BASE}+"))
            or parse_control(name) is not None
            or (name == BASE and not isinstance(one, Base))
        ):
            raise ValueError(f"No strategy may be called {name!r}: that system is scored anyway. Give it another name.")
    return named


def pool_systems(
    generator: AdaptableGenerator,
    pool: ExpertPool,
    strategies: Mapping[str, Strategy],
    *,
    singles: bool = True,
    uniform: bool = True,
    all_at_1: bool = True,
    controls: Sequence[Control] = (),
    control_draws: int = 1,
    support_sets: int = 1,
    seed: int = 0,
    pass2: Pass2 = "auto",
    transfer: bool = False,
) -> dict[str, TwoPass]:
    """Generators by system name: single experts, their fixed mixtures, controls, then the strategies.

    `pass2` is how strategies apply their mixtures. One that wants solved examples is there once for each of several
    `support_sets`. A strategy called `uniform` or `all` replaces that system, and one called `base` adds none: base is
    scored anyway. `seed` decides what the `control_draws` of a control are.

    Raises:
        ValueError: an expert does not fit the model, unless `transfer`.
    """
    fixed = _fixed(pool, strategies, singles=singles, uniform=uniform, all_at_1=all_at_1)
    systems = {name: TwoPass(generator, pool, one, pass2="merged", transfer=transfer) for name, one in fixed.items()}
    systems |= _control_systems(generator, pool, controls, control_draws, seed, transfer)
    return systems | {
        system: TwoPass(generator, pool, one, pass2=pass2, transfer=transfer)
        for system, one in _chosen(strategies, support_sets).items()
    }


def pool_system_names(
    pool: ExpertPool,
    strategies: Mapping[str, Strategy],
    *,
    singles: bool,
    uniform: bool,
    all_at_1: bool,
    controls: Sequence[Control],
    control_draws: int,
    support_sets: int,
) -> list[str]:
    """The names of `pool_systems`, in their order, before there is a model."""
    return [
        *_fixed(pool, strategies, singles=singles, uniform=uniform, all_at_1=all_at_1),
        *(name for name, *_ in _controls(pool, controls, control_draws)),
        *_chosen(strategies, support_sets),
    ]


def _fixed(
    pool: ExpertPool, strategies: Mapping[str, Strategy], *, singles: bool, uniform: bool, all_at_1: bool
) -> dict[str, Strategy]:
    """The systems with one mixture for all examples."""
    fixed: dict[str, Strategy] = {}
    if singles:
        fixed |= {f"{EXPERT}:{domain}": Fixed(weights={domain: 1.0}) for domain in pool.domains}
    if uniform and UNIFORM not in strategies:
        fixed[UNIFORM] = Fixed(uniform=True)
    if all_at_1 and ALL not in strategies:
        fixed[ALL] = Fixed(uniform=1.0)
    return fixed


def _chosen(strategies: Mapping[str, Strategy], support_sets: int) -> dict[str, Strategy]:
    """The strategies by the names of their systems."""
    return {
        system: one
        for name, one in strategies.items()
        if name != BASE
        for system in _by_support(name, one, support_sets)
    }


def _controls(
    pool: ExpertPool, controls: Sequence[Control], draws: int
) -> Iterator[tuple[str, Control, str, int | None]]:
    """Name, control, domain and number of the draw of each system; a LoRA has no multipliers to move."""
    for control in controls:
        for domain in pool.svf:
            for draw in range(1, draws + 1) if control in DRAWN else (None,):
                yield f"{control}:{domain}" if draw is None else f"{control}_{draw}:{domain}", control, domain, draw


def _control_systems(
    generator: AdaptableGenerator, pool: ExpertPool, controls: Sequence[Control], draws: int, seed: int, transfer: bool
) -> dict[str, TwoPass]:
    """Every control of every expert, those that chance decides in several draws."""
    systems = {}
    for name, control, domain, draw in _controls(pool, controls, draws):
        expert = pool.svf[domain]
        about, sizes = expert.metadata, {module: len(z) for module, z in expert.scales.items()}
        moved = transfer_expert(
            expert, sizes, base_model=about.base_model, fingerprint=about.fingerprint, control=control,
            seed=0 if draw is None else call_seed(seed, draw),
        )  # fmt: skip
        other = pool.with_expert(domain, moved)
        systems[name] = TwoPass(generator, other, Fixed(weights={domain: 1.0}), pass2="merged", transfer=transfer)
    return systems


def _by_support(name: str, strategy: Strategy, support_sets: int) -> list[str]:
    """The names of a strategy's systems: its own, or one per support set."""
    if support_sets == 1 or not strategy.wants_support:
        return [name]
    return [f"{name}#{number}" for number in range(1, support_sets + 1)]
