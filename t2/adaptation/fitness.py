"""Fitness of a mixture on a few solved examples: accuracy of its completions, or likelihood of right ones.

    accuracy      mean of `task.score` over greedy completions; ties by the mean log-prob per token of the correct ones
                  (weighted by their scores where those are not 0 or 1), 0.0 if none is correct, as in the paper
    likelihood    mean over examples of the mean log-prob per token of right completions, which the base, the uniform
                  mixture or an expert alone gave; decoded once, whatever is searched

All mixtures go through the model in the same batches, as scales per example. `t2.adaptation.search` proposes them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from operator import mul

import torch

from t2.adaptation.search import Fitness
from t2.adaptation.strategy import PooledModel, applies_per_example, merging_pays
from t2.adapters.base import PerExampleAdapter
from t2.experts.mixture import Mixture
from t2.models.precision import NonFiniteError
from t2.policy.generator import PerExampleGenerator
from t2.policy.log_probs import TokenLogProbs, token_log_probs
from t2.policy.packing import micro_batches
from t2.tasks.base import Task, grade, greedy
from t2.types import Completion, Example, Sampling

log = logging.getLogger(__name__)
MICRO_BATCH_TOKENS = 4096  # prompt and reference tokens of one forward, padding included

# D mixtures -> their D fitnesses.
FitnessFunction = Callable[[Sequence[Mixture]], list[Fitness]]


def each_once(measure: FitnessFunction) -> FitnessFunction:
    """The same function, which measures no mixture a second time: the best one is in every generation of a search."""
    known: dict[Mixture, Fitness] = {}

    def measured(mixtures: Sequence[Mixture]) -> list[Fitness]:
        new = [mixture for mixture in dict.fromkeys(mixtures) if mixture not in known]
        known.update(zip(new, measure(new), strict=True) if new else ())
        return [known[mixture] for mixture in mixtures]

    return measured


def complete_per_example(
    model: PooledModel, mixtures: Sequence[Mixture], examples: Sequence[Example], sampling: Sampling
) -> list[list[Completion]]:
    """One completion of each of B examples by each of D mixtures, D lists of B, in shared batches.

    Raises:
        ValueError: the generator cannot apply a state per example.
    """
    generator, pool = model.generator, model.pool
    if not isinstance(generator, PerExampleGenerator):
        raise ValueError(f"{type(generator).__name__} cannot give every example its own state; use complete_merged.")
    size = len(examples)
    adapted = generator.with_per_example_scales(
        lambda states: pool.scales([mixtures[state] for state in states]),
        [state for state in range(len(mixtures)) for _ in examples],
    )
    completions = [group[0] for group in adapted.generate(list(examples) * len(mixtures), sampling)]
    return [completions[start : start + size] for start in range(0, len(completions), size)]


def complete_merged(
    model: PooledModel, mixtures: Sequence[Mixture], examples: Sequence[Example], sampling: Sampling
) -> list[list[Completion]]:
    """The same completions from merged weights, one mixture after the other."""
    return [
        [group[0] for group in model.generator.with_state(model.pool.state(mixture)).generate(examples, sampling)]
        for mixture in mixtures
    ]


def complete_each(
    model: PooledModel, mixtures: Sequence[Mixture], examples: Sequence[Example], sampling: Sampling
) -> list[list[Completion]]:
    """The same completions, in shared batches where the examples are few and can have states of their own."""
    complete = complete_merged if merging_pays(model.generator, len(examples), 1) else complete_per_example
    return complete(model, mixtures, examples, sampling)


@torch.no_grad()
def token_log_probs_under(
    model: PooledModel, mixtures: Sequence[Mixture], completions: Sequence[Completion]
) -> Iterator[tuple[list[int], TokenLogProbs]]:
    """Yield the log-probs of each of C completions under each of D mixtures, in batches; row d * C + c is of d and c.

    Raises:
        ValueError: a log-prob that is not finite.
    """
    adapter, lm, size = model.adapter, model.lm, len(completions)
    if not applies_per_example(model.generator):
        yield from _token_log_probs_merged(model, mixtures, completions)
        return
    assert isinstance(adapter, PerExampleAdapter), "applies_per_example says so"
    rows = list(completions) * len(mixtures)
    for batch in micro_batches(rows, MICRO_BATCH_TOKENS, shared=False):
        distinct = sorted({row // size for row in batch})
        row_of = {state: row for row, state in enumerate(distinct)}
        with adapter.per_example(model.pool.scales([mixtures[state] for state in distinct])) as select:
            select(torch.tensor([row_of[row // size] for row in batch], device=lm.index_device))
            try:
                token = token_log_probs(lm, [rows[row] for row in batch])
            except NonFiniteError as error:
                row = batch[error.completion]
                raise _overflow(math.nan, mixtures[row // size], rows[row]) from error
        yield batch, token


def _token_log_probs_merged(
    model: PooledModel, mixtures: Sequence[Mixture], completions: Sequence[Completion]
) -> Iterator[tuple[list[int], TokenLogProbs]]:
    """The same from merged weights, one mixture after the other."""
    for number, mixture in enumerate(mixtures):
        for batch in micro_batches(completions, MICRO_BATCH_TOKENS, shared=False):
            with model.adapter.merged(model.pool.state(mixture)):
                try:
                    token = token_log_probs(model.lm, [completions[row] for row in batch])
                except NonFiniteError as error:
                    raise _overflow(math.nan, mixture, completions[batch[error.completion]]) from error
            yield [number * len(completions) + row for row in batch], token


class Accuracy:
    """Mean score of greedy completions of at most `task.max_new_tokens` tokens.

    Mixtures are merged one by one where the generator or adapter cannot apply a state per example.
    """

    def __init__(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Find out whether states can be applied per example; the log says where not."""
        self._model, self._task, self._support = model, task, list(support)
        self._sampling = greedy(task)
        if not applies_per_example(model.generator):
            log.info(
                "%s cannot apply a state per example: mixtures are merged one by one.", type(model.generator).__name__
            )

    def __call__(self, mixtures: Sequence[Mixture]) -> list[Fitness]:
        """D mixtures -> D fitnesses.

        Raises:
            ValueError: a score outside [0, 1], or a log-prob that is not finite.
        """
        completions = complete_each(self._model, mixtures, self._support, self._sampling)
        return [self._fitness(mixture, row) for mixture, row in zip(mixtures, completions, strict=True)]

    def _fitness(self, mixture: Mixture, completions: Sequence[Completion]) -> Fitness:
        log_probs = [sum(completion.log_probs) / len(completion.log_probs) for completion in completions]
        _check_finite(log_probs, mixture, completions)
        scores = [
            grade(self._task, example, completion.text).score
            for example, completion in zip(self._support, completions, strict=True)
        ]
        total = sum(scores)
        weighted = sum(score * log_prob for score, log_prob in zip(scores, log_probs, strict=True))
        return Fitness(total / len(scores), weighted / total if total > 0 else 0.0)


class Likelihood:
    """Mean log-likelihood of right completions: greedy ones of the base, the uniform mixture and each single expert.

    They are in the form that the experts answer in. The reference answers of a task are not, and under their likelihood
    the wrong expert was the best one (LOG.md).
    """

    def __init__(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Complete the support once; examples without a right completion are left out, and the log says how many.

        Raises:
            ValueError: no completion is right, or a score outside [0, 1].
        """
        rows = complete_each(model, _simplest(model), support, greedy(task))
        found: list[list[Completion]] = []
        for example, answers in zip(support, zip(*rows, strict=True), strict=True):
            distinct = {one.token_ids: one for one in answers}.values()
            found.append([one for one in distinct if grade(task, example, one.text).score == 1.0])
        right = [group for group in found if group]
        if not right:
            raise ValueError(
                f"Neither the base nor an expert is right on any of {len(support)} support examples of {task.name}, so "
                "no likelihood can be compared. Give more shots, or take fitness=accuracy."
            )
        if len(right) < len(found):
            log.info(
                "%d of %d support examples have no right completion and do not count.",
                len(found) - len(right),
                len(found),
            )
        self._model, self._support = model, list(support)
        self._references = [one for group in right for one in group]
        self._shares = [1 / (len(right) * len(group)) for group in right for _ in group]

    def __call__(self, mixtures: Sequence[Mixture]) -> list[Fitness]:
        """D mixtures -> D fitnesses.

        Raises:
            ValueError: a log-prob that is not finite.
        """
        size = len(self._references)
        log_probs = [0.0] * (size * len(mixtures))
        for batch, token in token_log_probs_under(self._model, mixtures, self._references):
            means = token.log_probs.sum(dim=1) / token.mask.sum(dim=1)  # padding is zero
            for row, mean in zip(batch, means.tolist(), strict=True):
                log_probs[row] = mean
        found = [log_probs[start : start + size] for start in range(0, len(log_probs), size)]
        return [Fitness(sum(map(mul, values, self._shares))) for values in found]


def _simplest(model: PooledModel) -> list[Mixture]:
    """The base, the uniform mixture, and each expert alone."""
    domains = model.pool.domains
    alone = [Mixture.of(*(float(domain == one) for domain in domains)) for one in domains]
    return [Mixture.base(len(domains)), Mixture.of(*(1 / len(domains) for _ in domains)), *alone]


def _check_finite(log_probs: Sequence[float], mixture: Mixture, completions: Sequence[Completion]) -> None:
    for log_prob, completion in zip(log_probs, completions, strict=True):
        if not math.isfinite(log_prob):
            raise _overflow(log_prob, mixture, completion)


def _overflow(log_prob: float, mixture: Mixture, completion: Completion) -> ValueError:
    means = ", ".join(f"{mean:.3g}" for mean in mixture.means)
    return ValueError(
        f"Under the mixture with mean mixing weights ({means}) the log-probs of the completion "
        f"{completion.text[:60]!r} are {log_prob}: the weights overflow. Narrow the bounds of mixing weight, or set "
        "base_model.dtype=float32."
    )
