"""Chooses by certainty: every expert and the base complete a prompt, and the most certain completion wins.

    prompt --+-- base ------> completion, mean log-prob --+
             +-- expert 1 --> completion, mean log-prob --+--> the most certain one: mixture and answer
             +-- expert K --> ...                       --+

Beyond the paper. All of them complete in one batch, each row with its own expert. Where the answers are asked for
greedily, those of pass 1 are the answers, and there is no second pass. `first_entropy` decides by the model's entropy
where the answer begins: one prefill per expert, nothing is decoded, and a second pass follows. Nothing is fitted; how
certain an expert is and how often it is right are two things, and training raises the first by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from t2.adaptation.fitness import complete_each, token_log_probs_under
from t2.adaptation.strategy import Choice, PooledModel
from t2.experts.mixture import Mixture
from t2.run.messages import check_choice
from t2.tasks.base import Task
from t2.types import OTHER, Completion, Example, Sampling

Measure = Literal["mean", "sum", "first_entropy"]


class Confidence:
    """The expert, or the base, whose greedy completion of a prompt is the most certain; of equals the first counts.

    Args:
        measure: `mean` log-prob per token of the completion, their `sum`, or minus the entropy of its first token.
        base: the base model takes part, first.
        max_new_tokens: length of the completions that decide where no answer of another length is asked for.
        name: the system's name in reports.
    """

    wants_support = False

    def __init__(
        self, measure: Measure = "mean", base: bool = True, max_new_tokens: int = 64, name: str = "confidence"
    ) -> None:
        """Keep the choices.

        Raises:
            ValueError: an unknown measure, or no token.
        """
        check_choice("strategy.measure", measure, get_args(Measure))
        self.measure, self.base, self.name = measure, base, name
        self._sampling = Sampling(max_new_tokens=max_new_tokens)

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Do nothing: only the completions decide."""

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """B examples -> B choices, in the order of the examples.

        Raises:
            ValueError: a prompt that does not fit the model's context with its answer.
        """
        return self.complete(model, examples, self._sampling)[0]

    def complete(
        self, model: PooledModel, examples: Sequence[Example], sampling: Sampling
    ) -> tuple[list[Choice], list[list[Completion]] | None]:
        """The choices of B examples, and their answers where those are known: greedy ones, unless first_entropy.

        Raises:
            ValueError: as for `choose`.
        """
        labels = [*([OTHER] if self.base else []), *model.pool.domains]
        mixtures = [_alone(label, model.pool.domains) for label in labels]
        if not examples:
            return [], []
        if self.measure == "first_entropy":
            return self._choices(
                _first_entropies(model, mixtures, examples).neg(), labels, mixtures, [0] * len(examples)
            ), None
        greedy = replace(sampling, temperature=0.0, top_p=1.0, samples=1)
        rows = complete_each(model, mixtures, examples, greedy)  # D lists of B
        values = torch.tensor([[self._certainty(one) for one in row] for row in rows], dtype=torch.float64).T  # (B, D)
        spent = [sum(len(row[index].token_ids) for row in rows) for index in range(len(examples))]
        choices = self._choices(values, labels, mixtures, spent)
        if sampling.temperature > 0.0 or sampling.samples > 1:
            return choices, None
        best = values.argmax(dim=1).tolist()
        return choices, [[rows[row][index]] for index, row in enumerate(best)]

    def _certainty(self, completion: Completion) -> float:
        total = sum(completion.log_probs)
        return total if self.measure == "sum" else total / len(completion.log_probs)

    def _choices(
        self, values: Tensor, labels: Sequence[str], mixtures: Sequence[Mixture], tokens: Sequence[int]
    ) -> list[Choice]:
        """The choices for certainties (B, D) of the D labels."""
        if not bool(values.isfinite().all()):
            raise ValueError("Some completions have log-probs that are NaN or infinite; check the experts' weights.")
        choices = []
        for row, shares, spent in zip(values, torch.softmax(values, dim=1).tolist(), tokens, strict=True):
            best = int(row.argmax())
            scores = {OTHER: 0.0} | dict(zip(labels, shares, strict=True))
            choices.append(Choice(mixtures[best], labels[best], scores, tokens=spent))
        return choices


def _alone(label: str, domains: Sequence[str]) -> Mixture:
    """The expert of the label alone; the base for `other`."""
    return Mixture.of(*(float(domain == label) for domain in domains))


def _first_entropies(model: PooledModel, mixtures: Sequence[Mixture], examples: Sequence[Example]) -> Tensor:
    """Entropies (B, D) of the first token of the answers under D mixtures, in nats."""
    asked = []
    for example in examples:
        ids = model.lm.encode(example, reserve=1)
        asked.append(Completion(tuple(ids), (model.lm.pad_id,), (0.0,), "", "length", example.images))
    entropies = torch.zeros(len(mixtures), len(asked), dtype=torch.float64)
    for rows, token in token_log_probs_under(model, mixtures, asked):
        for row, value in zip(rows, token.entropy[:, 0].tolist(), strict=True):
            entropies[row // len(asked), row % len(asked)] = value
    return entropies.T
