"""Two-pass inference (paper §3.2): a first pass chooses a mixture for each example, a second one answers under it.

A two-pass system is a generator like any other. How the second pass wears the mixtures is said by `by`:

    rows     all examples in one batch, each under its own mixture; no weight is written
    groups   one call per distinct mixture, under its merged weights
    auto     what is cheapest by costs timed on the model itself: rows, groups, or the large groups merged and the rest
             in rows (`t2.adaptation.pass_plan`); groups where the generator is not transformers'

All of them compute the same function, up to rounding. Greedy answers are therefore the same. Sampled ones are not:
each call draws numbers of its own, and how examples are divided into calls depends on `by`, with `auto` on timings as
well. Choose rows or groups where samples must be drawn again.

Not done here: choosing (`t2.adaptation`), and mixing (`t2.experts.pool`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from t2.adaptation.pass_plan import Costs, Plan, Work, measure, plan
from t2.adaptation.strategy import Choice, PooledModel, Strategy
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.counted import TokenCount, counted
from t2.policy.generator import AdaptableGenerator, Generator, RowGenerator
from t2.policy.hf import HFGenerator
from t2.run.phases import Phases
from t2.types import Completion, Example, Sampling

By = Literal["auto", "rows", "groups"]


@dataclass(frozen=True)
class PassRecord:
    """What one call of `TwoPass.generate` did.

    `merged` examples were answered in groups, under merged weights or the base's, `rows` in row batches. `seconds` and
    `tokens` (generated ones) are those of `pass1` and `pass2`; `calibration` is there when costs were timed.
    """

    examples: int
    mixtures: int  # distinct ones
    merged: int
    rows: int
    seconds: Mapping[str, float]
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class _Group:
    """Examples that wear the same mixture."""

    mixture: Mixture
    places: tuple[int, ...]


class TwoPass:
    """Answers each example under the mixture that `strategy` chooses for it from `pool`.

    `choices` are those of the latest call, one per example; `records` tell what each call did, and `phases` adds up
    their seconds. `costs` are timed when `auto` needs them first; set them to those of another TwoPass on the same
    model to spare that.
    """

    def __init__(
        self,
        generator: AdaptableGenerator,
        pool: ExpertPool,
        strategy: Strategy,
        *,
        by: By = "auto",
        transfer: bool = False,
    ) -> None:
        """`transfer` accepts experts of another model whose modules and sizes fit.

        Raises:
            ValueError: an unknown `by` or one the generator cannot do, no SVF to wear mixtures, or a pool that does not
                fit the model.
        """
        if by not in get_args(By):
            raise ValueError(f"two_pass.by is {by!r}; allowed: {', '.join(get_args(By))}.")
        if by == "rows" and not isinstance(generator, RowGenerator):
            raise ValueError(
                f"{type(generator).__name__} cannot give every example its own mixture; use by=groups, or "
                "generation=hf."
            )
        if not isinstance(generator.adapter, SVF):
            found = "no adapter" if generator.adapter is None else f"a {type(generator.adapter).__name__}"
            raise ValueError(f"The generator has {found}, and mixtures of experts are worn by SVF; set adapter=svf.")
        pool.check(generator.adapter, source=generator.lm.source, transfer=transfer)
        self.generator, self.pool, self.strategy, self.by = generator, pool, strategy, by
        self.costs: Costs | None = None
        self.phases = Phases()
        self.choices: tuple[Choice, ...] = ()
        self.records: list[PassRecord] = []

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions, in the order of the examples.

        Raises:
            ValueError: a prompt and its new tokens do not fit the model's context, or the strategy's choices do not fit
                the examples or the pool.
        """
        self.choices = ()
        if not examples:
            return []
        lm = self.generator.lm  # a prompt that is too long is refused before the first pass
        lengths = [len(lm.encode(example, reserve=sampling.max_new_tokens)) for example in examples]
        self.phases.start_step()
        first, second = TokenCount(), TokenCount()
        with self.phases("pass1"):
            model = PooledModel(counted(self.generator, first), self.pool)
            choices = tuple(self.strategy.choose(model, examples))
        groups = self._group(choices, len(examples))
        self.choices = choices
        planned = self._plan(groups, sum(lengths) / len(lengths), sampling)
        with self.phases("pass2"):
            answers = self._answer(examples, groups, planned, sampling)
        second.add(answers)
        self.records.append(
            PassRecord(
                examples=len(examples),
                mixtures=len(groups),
                merged=sum(len(groups[number].places) for number in planned.merged),
                rows=sum(len(groups[number].places) for number in planned.rows),
                seconds=dict(self.phases.step_seconds),
                tokens={"pass1": first.generated, "pass2": second.generated},
            )
        )
        return answers

    def _group(self, choices: Sequence[Choice], examples: int) -> list[_Group]:
        """The distinct mixtures and who wears them, by first appearance."""
        if len(choices) != examples:
            raise ValueError(
                f"The strategy {self.strategy.name} made {len(choices)} choices for {examples} examples; it has to "
                "make one for each."
            )
        places: dict[Mixture, list[int]] = {}
        for place, choice in enumerate(choices):
            self.pool.check_mixture(choice.mixture)
            mixture = Mixture.base(len(self.pool.domains)) if is_base(choice.mixture) else choice.mixture
            places.setdefault(mixture, []).append(place)
        return [_Group(mixture, tuple(found)) for mixture, found in places.items()]

    def _plan(self, groups: Sequence[_Group], prompt_tokens: float, sampling: Sampling) -> Plan:
        everyone = tuple(range(len(groups)))
        if self.by == "rows":
            return Plan(merged=(), rows=everyone)
        base = next((number for number in everyone if is_base(groups[number].mixture)), None)
        if self.by == "groups" or not isinstance(self.generator, HFGenerator) or everyone == (base,):
            return Plan(merged=everyone, rows=())
        if self.costs is None:
            assert isinstance(self.generator.adapter, SVF), "checked at construction"
            with self.phases("calibration"):
                self.costs = measure(self.generator.lm, self.generator.adapter, self.generator.dtype)
        work = Work(
            prompt_tokens=prompt_tokens,
            new_tokens=(sampling.max_new_tokens + 1) // 2,  # see Work
            samples=sampling.samples,
            batch_rows=self.generator.batch_rows,
        )
        return plan([len(group.places) for group in groups], self.costs, work, base=base)

    def _answer(
        self, examples: Sequence[Example], groups: Sequence[_Group], planned: Plan, sampling: Sampling
    ) -> list[list[Completion]]:
        """The second pass, in one call per merged group and one for all rows."""
        calls = [(self._merged(groups[number]), groups[number].places) for number in planned.merged]
        if planned.rows:
            calls.append(self._rows([groups[number] for number in planned.rows]))
        answers: dict[int, list[Completion]] = {}
        for number, (generator, places) in enumerate(calls):
            seeded = replace(sampling, seed=call_seed(sampling.seed, number))
            found = generator.generate([examples[place] for place in places], seeded)
            answers |= dict(zip(places, found, strict=True))
        return [answers[place] for place in range(len(examples))]

    def _merged(self, group: _Group) -> Generator:
        return self.generator.with_state({} if is_base(group.mixture) else self.pool.state(group.mixture))

    def _rows(self, groups: Sequence[_Group]) -> tuple[Generator, tuple[int, ...]]:
        assert isinstance(self.generator, RowGenerator), "checked at construction"
        wearer = {place: number for number, group in enumerate(groups) for place in group.places}
        places = tuple(sorted(wearer))
        rows = self.generator.with_rows(
            lambda numbers: self.pool.scales([groups[number].mixture for number in numbers]),
            [wearer[place] for place in places],
        )
        return rows, places


def is_base(mixture: Mixture) -> bool:
    """Whether the mixture is the base model, exactly."""
    return mixture.rule == "delta" and not any(alpha for row in mixture.alphas for alpha in row)


def call_seed(seed: int, number: int) -> int:
    """The seed of a call within a pass: `seed` itself for the first, and for the others ones far from each other.

    So examples of different calls do not share their random numbers.
    """
    return seed if number == 0 else random.Random(f"{seed}/{number}").getrandbits(31)
