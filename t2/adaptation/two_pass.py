"""Two-pass inference (paper §3.2): a first pass chooses a mixture for each prompt, a second one generates with it.

                     +-- pass 1: strategy --> a mixture per prompt --+
    prompts ---------+                                               +--> pass 2: completions
                     +-----------------------------------------------+

A two-pass system is a generator like any other. A strategy that chooses among completions may have the answers already
(`CompletingStrategy`); else the second pass applies the mixtures in one of two ways:

    merged        one call per distinct mixture, with its merged weights
    per_example   all prompts in one batch, each with its own mixture; no weight is written
    auto          merged where a mixture has many prompts, in the mean, or all of them; else per_example

Both compute the same function up to rounding, so greedy completions are the same. Sampled ones are not: each call draws
numbers of its own, and the two ways divide prompts into calls differently.

Not done here: choosing mixtures (`t2.adaptation.strategy`), and making z of them (`t2.experts.pool`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from t2.adaptation.strategy import Choice, CompletingStrategy, PooledModel, Strategy, merging_pays
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.forward_tokens import count_forward_tokens
from t2.policy.generator import AdaptableGenerator, PerExampleGenerator
from t2.policy.hf import HFGenerator
from t2.run.messages import check_choice
from t2.run.phases import Phases
from t2.types import Completion, Example, Sampling

Pass2 = Literal["auto", "per_example", "merged"]


@dataclass(frozen=True)
class PassRecord:
    """What one call of `TwoPass.generate` did; `seconds` and `tokens` are those of `pass1` and `pass2`.

    `tokens` are generated; `forward_tokens` went through the model (`t2.models.forward_tokens`).
    """

    examples: int
    mixtures: int  # distinct ones
    per_example: bool  # else merged, where there was a second pass
    seconds: Mapping[str, float]
    tokens: Mapping[str, int]
    forward_tokens: Mapping[str, int]


@dataclass(frozen=True)
class _Group:
    """The examples (by index) that have the same mixture."""

    mixture: Mixture
    indices: tuple[int, ...]


class TwoPass:
    """Answers each example with the mixture that `strategy` chooses for it from `pool`.

    `choices` are those of the latest call, one per example; `records` tell what each call did, and `phases` adds up
    their seconds.
    """

    def __init__(
        self,
        generator: AdaptableGenerator,
        pool: ExpertPool,
        strategy: Strategy,
        *,
        pass2: Pass2 = "auto",
        transfer: bool = False,
    ) -> None:
        """`transfer` accepts experts of another model whose modules and sizes fit.

        Raises:
            ValueError: an unknown `pass2` or one that the generator cannot do, no SVF to apply mixtures with, or a pool
                that does not fit the model.
        """
        check_choice("pass2", pass2, get_args(Pass2))
        if pass2 == "per_example" and not isinstance(generator, PerExampleGenerator):
            raise ValueError(
                f"{type(generator).__name__} cannot give every example its own mixture; use pass2=merged, or "
                "generation=hf."
            )
        if not isinstance(generator.adapter, SVF):
            found = "no adapter" if generator.adapter is None else f"a {type(generator.adapter).__name__}"
            raise ValueError(f"The generator has {found}, and mixtures of experts need SVF; set adapter=svf.")
        if pool.loras and not isinstance(generator, HFGenerator):
            raise ValueError(
                f"The pool has LoRAs ({', '.join(pool.loras)}), which {type(generator).__name__} does not mix. Use "
                "generation=hf, or a pool without them."
            )
        pool.check(generator.adapter, source=generator.lm.source, transfer=transfer)
        self.generator, self.pool, self.strategy, self.pass2 = generator, pool, strategy, pass2
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
        for example in examples:  # a prompt that is too long is refused before the first pass
            self.generator.lm.encode(example, reserve=sampling.max_new_tokens)
        self.phases.start_step()
        with self.phases("pass1"), count_forward_tokens(self.generator.lm) as first:
            chosen, answers = self._choose(examples, sampling)
        choices = tuple(chosen)
        groups = self._group(choices, len(examples))
        self.choices = choices
        per_example = self._applies_per_example(groups)
        with self.phases("pass2"), count_forward_tokens(self.generator.lm) as second:
            generate = self._per_example if per_example else self._merged
            completions = generate(examples, groups, sampling) if answers is None else answers
        self.records.append(
            PassRecord(
                examples=len(examples),
                mixtures=len(groups),
                per_example=per_example,
                seconds=dict(self.phases.step_seconds),
                tokens={
                    "pass1": sum(choice.tokens for choice in choices),
                    "pass2": 0 if answers else sum(len(one.token_ids) for group in completions for one in group),
                },
                forward_tokens={"pass1": first.count, "pass2": second.count},
            )
        )
        return completions

    def _choose(
        self, examples: Sequence[Example], sampling: Sampling
    ) -> tuple[list[Choice], list[list[Completion]] | None]:
        """The choices, and the completions where the strategy has them."""
        model = PooledModel(self.generator, self.pool)
        if isinstance(self.strategy, CompletingStrategy):
            return self.strategy.complete(model, examples, sampling)
        return self.strategy.choose(model, examples), None

    def _group(self, choices: Sequence[Choice], examples: int) -> list[_Group]:
        """The distinct mixtures and their examples, by first appearance."""
        if len(choices) != examples:
            raise ValueError(
                f"The strategy {self.strategy.name} made {len(choices)} choices for {examples} examples; it has to "
                "make one for each."
            )
        indices: dict[Mixture, list[int]] = {}
        for index, choice in enumerate(choices):
            self.pool.check_mixture(choice.mixture)
            mixture = Mixture.base(len(self.pool.domains)) if is_base(choice.mixture) else choice.mixture
            indices.setdefault(mixture, []).append(index)
        return [_Group(mixture, tuple(found)) for mixture, found in indices.items()]

    def _applies_per_example(self, groups: Sequence[_Group]) -> bool:
        if self.pass2 == "auto":
            examples = sum(len(group.indices) for group in groups)
            return len(groups) > 1 and not merging_pays(self.generator, examples, len(groups))
        return self.pass2 == "per_example"

    def _merged(
        self, examples: Sequence[Example], groups: Sequence[_Group], sampling: Sampling
    ) -> list[list[Completion]]:
        """One call per distinct mixture."""
        found: dict[int, list[Completion]] = {}
        for number, group in enumerate(groups):
            state = {} if is_base(group.mixture) else self.pool.state(group.mixture)
            completions = self.generator.with_state(state).generate(
                [examples[index] for index in group.indices],
                replace(sampling, seed=call_seed(sampling.seed, number)),
            )
            found |= dict(zip(group.indices, completions, strict=True))
        return [found[index] for index in range(len(examples))]

    def _per_example(
        self, examples: Sequence[Example], groups: Sequence[_Group], sampling: Sampling
    ) -> list[list[Completion]]:
        """One call for all examples."""
        assert isinstance(self.generator, PerExampleGenerator), "checked at construction"
        number_of = {index: number for number, group in enumerate(groups) for index in group.indices}
        adapted = self.generator.with_per_example_scales(
            lambda numbers: self.pool.scales([groups[number].mixture for number in numbers]),
            [number_of[index] for index in range(len(examples))],
        )
        return adapted.generate(examples, sampling)


def is_base(mixture: Mixture) -> bool:
    """Whether the mixture is the base model, exactly."""
    return mixture.rule == "delta" and not any(weight for row in mixture.weights for weight in row)


def call_seed(seed: int, number: int) -> int:
    """The seed of a call within a pass: `seed` itself for the first, and for the others ones far from each other.

    So examples of different calls do not share their random numbers.
    """
    return seed if number == 0 else random.Random(f"{seed}/{number}").getrandbits(31)
