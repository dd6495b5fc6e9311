"""Dispatch by centroids: the domain whose prompts are nearest in the model's own hidden states. Beyond the paper.

    fit       mean over training prompts of their mean hidden state, at one layer of the base model: one vector per
              label, and one per task of it
    choose    a prompt that is as near to the vector of a task as prompts of the task are has the task's label, the
              nearest of such tasks; any other prompt that of the nearest label, by the cosine with the prompt's own
              mean hidden state: one prefill of the bare prompt, of some blocks

A label of many tasks lies in the middle of them, near to none; a task alone knows nothing of other wordings. So both
are asked. Nothing is trained and no expert is active. With `refuse`, a prompt of no known task is `other`, too, where
its cosine is low for a prompt of the nearest domain; that refuses new wordings of the domain as well. Images are not
looked at. Not done here: making vectors (`t2.adaptation.centroid_fit`), hidden states (`t2.policy.mean_states`), the
file and thresholds (`t2.experts.centroids`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from t2.adaptation.centroid_fit import cosines_of, fingerprint, make_centroids, prompts_of
from t2.adaptation.strategy import Choice, PooledModel
from t2.experts.centroids import Centroids
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.mean_states import mean_states
from t2.run.messages import check_range
from t2.run.places import typed
from t2.tasks.base import Task
from t2.tasks.dispatch import Dispatch
from t2.types import OTHER, Example


class Centroid:
    """The expert of the domain with the nearest centroid, or a mixture of all by their nearness.

    The centroids are those that `fit` makes of a dispatch task, or else the pool's.

    Args:
        soft: mixing weights are softmax(cosine / temperature) over the labels, instead of 1 for the nearest.
        temperature: of that, and of the scores that are reported.
        novelty: the share of a task's own prompts that may be taken for a new task's; None: labels alone are compared.
        refuse: the share of a domain's own prompts that may be taken for `other`; None: its vector alone counts.
        layer: the decoder block, the first is 1; None: the best in cross-validation, or that of the pool's file.
        name: the system's name in reports.
    """

    wants_support = False

    def __init__(
        self,
        soft: bool = False,
        temperature: float = 0.01,
        novelty: float | None = 0.1,
        refuse: float | None = None,
        layer: int | None = None,
        name: str = "centroid",
    ) -> None:
        """Keep the choices.

        Raises:
            ValueError: values outside what is allowed.
        """
        check_range("strategy.temperature", temperature, above=0.0, below=math.inf)
        for key, share in (("novelty", novelty), ("refuse", refuse)):
            if share is not None:
                check_range(f"strategy.{key}", share, above=0.0, below=1.0)
        if layer is not None:
            check_range("strategy.layer", layer, at_least=1)
        self.name = name
        self.centroids: Centroids | None = None  # what `fit` has made
        self._soft, self._temperature, self._novelty, self._refuse, self._layer = (
            soft,
            temperature,
            novelty,
            refuse,
            layer,
        )

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Make the centroids of a dispatch task; of any other task nothing is used: only prompts decide.

        Raises:
            ValueError: the task's labels are not the pool's domains, or the model has no such layer.
        """
        if isinstance(task, Dispatch):
            self.centroids = make_centroids(model, task, layer=self._layer)

    def trained_on(self, pool: ExpertPool, task: Task) -> dict[str, frozenset[str] | None]:
        """The prompts behind the vectors: of a dispatch task those that `fit` takes, else those of the pool's."""
        if isinstance(task, Dispatch):
            return {"centroids": prompts_of(task)}
        found = self.centroids or pool.centroids
        return {} if found is None else {"centroids": found.prompts}

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """B examples -> B choices, in the order of the examples.

        Raises:
            ValueError: there are no centroids, or those of another pool, model or layer; or an empty prompt.
        """
        found = self._checked(model)
        if not examples:
            return []
        with model.adapter.disabled():
            states = mean_states(model.lm, [example.prompt for example in examples], [found.layer])[:, 0]  # (B, D)
        if not bool(states.isfinite().all()):
            raise ValueError(f"Some hidden states of {model.lm.source} are NaN or infinite; check its weights.")
        domains = model.pool.domains
        cosines = self._with_labels(found, states, domains)
        if self._novelty is not None:
            known = _with_known_tasks(found, states, domains, self._novelty)
            cosines = torch.where(known.isfinite().any(dim=1, keepdim=True), known, cosines)
        return [self._choice(row, domains) for row in torch.softmax(cosines.double() / self._temperature, dim=1)]

    def _with_labels(self, found: Centroids, states: Tensor, domains: Sequence[str]) -> Tensor:
        """Cosines (B, K + 1) of states (B, D) with the domains and `other`; without a vector of `other` its is -inf."""
        cosines = _no_cosines(states, domains)
        for at, label in enumerate((*domains, OTHER)):
            if label in found.labels:
                cosines[:, at] = cosines_of(states, found.labels[label].vector[None])[:, 0]
        if self._refuse is not None:
            lowest = torch.tensor([found.labels[domain].threshold(self._refuse) for domain in domains])
            cosines[:, -1] = torch.maximum(cosines[:, -1], lowest[cosines[:, :-1].argmax(dim=1)])
        return cosines

    def _choice(self, probabilities: Tensor, domains: Sequence[str]) -> Choice:
        """The choice for probabilities (K + 1,) of the domains and `other`; of equals a domain counts."""
        labels, values = (*domains, OTHER), probabilities.tolist()
        label = labels[int(probabilities.argmax())]
        weights = values[:-1] if self._soft else [float(domain == label) for domain in domains]
        return Choice(Mixture.of(*weights), label, dict(zip(labels, values, strict=True)))

    def _checked(self, model: PooledModel) -> Centroids:
        found = self.centroids or model.pool.centroids
        if found is None:
            raise ValueError(
                f"The strategy {self.name!r} needs the centroids of this pool. Make them, {typed('adapt')} "
                "experts=POOL strategy=centroid task=TASK with a dispatch task, and add them to the pool as "
                "`centroids`; or fit the strategy to a dispatch task."
            )
        found.check(model.pool.domains, base_model=model.lm.source, fingerprint=fingerprint(model), layer=self._layer)
        return found


def _with_known_tasks(found: Centroids, states: Tensor, domains: Sequence[str], novelty: float) -> Tensor:
    """Cosines (B, K + 1) of states (B, D) with the nearest task of each label that a prompt may be of, or -inf."""
    cosines = _no_cosines(states, domains)
    for at, label in enumerate((*domains, OTHER)):
        for task in found.tasks.get(label, {}).values():
            own = cosines_of(states, task.vector[None])[:, 0]
            own = own.masked_fill(own < task.threshold(novelty), -math.inf)
            cosines[:, at] = torch.maximum(cosines[:, at], own)
    return cosines


def _no_cosines(states: Tensor, domains: Sequence[str]) -> Tensor:
    return torch.full((len(states), len(domains) + 1), -math.inf)
