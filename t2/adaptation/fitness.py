"""What a mixture is worth on a few solved examples: by its answers, or by what it thinks of the right ones.

    accuracy      mean of `task.score` over greedy answers; ties by the mean log-prob per token of the correct answers
                  (weighted by their scores where those are not 0 or 1), 0.0 if none is correct, as in the paper
    likelihood    mean over examples of the reference answer's mean log-prob per token; nothing is decoded

All mixtures go through the model together, as rows of its batches. How mixtures are proposed: `t2.adaptation.search`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch

from t2.adaptation.search import Fitness
from t2.adaptation.strategy import PooledModel
from t2.adapters.base import PerExampleAdapter
from t2.experts.mixture import Mixture
from t2.policy.generator import PerExampleGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.packing import micro_batches
from t2.policy.reference import encode_reference
from t2.tasks.base import Task, check_scores
from t2.types import Completion, Example, Sampling

log = logging.getLogger(__name__)
MICRO_BATCH_TOKENS = 4096  # prompt and answer tokens of one forward, padding included

# D mixtures -> their D fitnesses.
FitnessFunction = Callable[[Sequence[Mixture]], list[Fitness]]


def complete_per_example(
    model: PooledModel, mixtures: Sequence[Mixture], examples: Sequence[Example], sampling: Sampling
) -> list[list[Completion]]:
    """One greedy or sampled answer of each of D mixtures to each of B examples, D lists of B; nothing is merged.

    Raises:
        ValueError: the adapter cannot give every row of a batch its own state.
    """
    generator, pool = model.generator, model.pool
    if not isinstance(generator, PerExampleGenerator):
        raise ValueError(f"{type(generator).__name__} cannot give every example its own state; merge one by one.")
    size = len(examples)
    adapted = generator.with_per_example_scales(
        lambda states: pool.scales([mixtures[state] for state in states]),
        [state for state in range(len(mixtures)) for _ in examples],
    )
    answers = [group[0] for group in adapted.generate(list(examples) * len(mixtures), sampling)]
    return [answers[start : start + size] for start in range(0, len(answers), size)]


def complete_merged(
    model: PooledModel, mixtures: Sequence[Mixture], examples: Sequence[Example], sampling: Sampling
) -> list[list[Completion]]:
    """What `complete_per_example` gives, under the weights merged with one mixture after the other."""
    return [
        [group[0] for group in model.generator.with_state(model.pool.state(mixture)).generate(examples, sampling)]
        for mixture in mixtures
    ]


class Accuracy:
    """Scores greedy answers of at most `task.max_new_tokens` tokens; merges one by one where rows cannot be had."""

    def __init__(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Look at what the generator can do."""
        self._model, self._task, self._support = model, task, list(support)
        self._sampling = Sampling(max_new_tokens=task.max_new_tokens)
        self._by_rows = isinstance(model.generator, PerExampleGenerator) and isinstance(
            model.adapter, PerExampleAdapter
        )
        if not self._by_rows:
            log.info("%s has no rows: mixtures are merged one by one.", type(model.generator).__name__)

    def __call__(self, mixtures: Sequence[Mixture]) -> list[Fitness]:
        """D mixtures -> D fitnesses.

        Raises:
            ValueError: a score outside [0, 1], or a log-prob that is not finite.
        """
        answer = complete_per_example if self._by_rows else complete_merged
        answers = answer(self._model, mixtures, self._support, self._sampling)
        return [self._fitness(mixture, row) for mixture, row in zip(mixtures, answers, strict=True)]

    def _fitness(self, mixture: Mixture, answers: Sequence[Completion]) -> Fitness:
        log_probs = [sum(answer.log_probs) / len(answer.log_probs) for answer in answers]
        _check_finite(log_probs, mixture, self._support)
        scores = [
            self._task.score(example, answer.text) for example, answer in zip(self._support, answers, strict=True)
        ]
        check_scores(scores, f"Task {self._task.name}")
        total = sum(scores)
        weighted = sum(score * log_prob for score, log_prob in zip(scores, log_probs, strict=True))
        return Fitness(total / len(scores), weighted / total if total > 0 else 0.0)


class Likelihood:
    """Log-likelihood of the reference answers, which are tokenized as the model's turn behind the prompt."""

    def __init__(self, model: PooledModel, support: Sequence[Example], *, end_of_turn: bool = False) -> None:
        """Encode prompts and answers once; `end_of_turn` lets the token that ends an answer count, too.

        Raises:
            ValueError: an example without an answer, or one that does not fit the context; or the adapter has no rows.
        """
        adapter = model.adapter
        if not isinstance(adapter, PerExampleAdapter):
            raise ValueError(
                f"{type(adapter).__name__} cannot give every row its own state, which fitness=likelihood needs. "
                "Take fitness=accuracy."
            )
        self._model, self._adapter, self._support = model, adapter, list(support)
        self._references = [encode_reference(model.lm, example, end_of_turn) for example in support]

    @torch.no_grad()
    def __call__(self, mixtures: Sequence[Mixture]) -> list[Fitness]:
        """D mixtures -> D fitnesses.

        Raises:
            ValueError: a log-prob that is not finite.
        """
        size = len(self._references)
        rows = self._references * len(mixtures)
        log_probs = [0.0] * len(rows)
        for batch in micro_batches(rows, MICRO_BATCH_TOKENS, shared=False):
            distinct = sorted({row // size for row in batch})
            place = {state: at for at, state in enumerate(distinct)}
            scales = self._model.pool.scales([mixtures[state] for state in distinct])
            with self._adapter.per_example(scales) as select:
                select(torch.tensor([place[row // size] for row in batch], device=self._model.lm.device))
                token = token_log_probs(self._model.lm, [rows[row] for row in batch])
            means = token.log_probs.sum(dim=1) / token.mask.sum(dim=1)  # padding is zero
            for row, mean in zip(batch, means.tolist(), strict=True):
                log_probs[row] = mean
        found = [log_probs[start : start + size] for start in range(0, len(rows), size)]
        for mixture, values in zip(mixtures, found, strict=True):
            _check_finite(values, mixture, self._support)
        return [Fitness(sum(values) / size) for values in found]


def _check_finite(log_probs: Sequence[float], mixture: Mixture, support: Sequence[Example]) -> None:
    for log_prob, example in zip(log_probs, support, strict=True):
        if not math.isfinite(log_prob):
            means = ", ".join(f"{mean:.3g}" for mean in mixture.means)
            raise ValueError(
                f"Under the mixture with mean mixing weights ({means}) the log-probs of the answer to "
                f"{example.prompt[:60]!r} are {log_prob}: the weights overflow. Narrow the bounds of mixing weight, "
                "or set base_model.dtype=float32."
            )
