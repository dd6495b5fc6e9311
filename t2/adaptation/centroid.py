"""Dispatch by centroids: the domain whose prompts are nearest in the model's own hidden states. Beyond the paper.

    fit       label -> mean over its training prompts of their mean hidden state, at one layer of the base model
    choose    the highest cosine with the prompt's own mean hidden state: one prefill of the bare prompt, of some blocks

Nothing is trained and no expert is active. A prompt is `other` where the vector of `other` is nearest and, with
`refuse`, where its cosine is low for a prompt of the nearest domain (`Centroids.threshold`); that refuses new wordings
of the domain, too. Images are not looked at. Not done here: making vectors (`t2.adaptation.centroid_fit`), hidden
states (`t2.policy.mean_states`), the file (`t2.experts.centroids`).
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
        refuse: the share of a domain's own prompts that may be taken for `other`; None: its vector alone counts.
        layer: the decoder block, the first is 1; None: the best in cross-validation, or that of the pool's file.
        name: the system's name in reports.
    """

    wants_support = False

    def __init__(
        self,
        soft: bool = False,
        temperature: float = 0.01,
        refuse: float | None = None,
        layer: int | None = None,
        name: str = "centroid",
    ) -> None:
        """Keep the choices.

        Raises:
            ValueError: values outside what is allowed.
        """
        check_range("strategy.temperature", temperature, above=0.0, below=math.inf)
        if refuse is not None:
            check_range("strategy.refuse", refuse, above=0.0, below=1.0)
        if layer is not None:
            check_range("strategy.layer", layer, at_least=1)
        self.name = name
        self.centroids: Centroids | None = None  # what `fit` has made
        self._soft, self._temperature, self._refuse, self._layer = soft, temperature, refuse, layer

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
        domains = model.pool.domains
        cosines = cosines_of(states, torch.stack([found.vectors[domain] for domain in domains]))  # (B, K)
        if not bool(cosines.isfinite().all()):
            raise ValueError(f"Some hidden states of {model.lm.source} are NaN or infinite; check its weights.")
        other = torch.full((len(examples),), -math.inf)
        if OTHER in found.vectors:
            other = cosines_of(states, found.vectors[OTHER][None])[:, 0]
        if self._refuse is not None:
            lowest = torch.tensor([found.threshold(domain, self._refuse) for domain in domains])
            other = torch.maximum(other, lowest[cosines.argmax(dim=1)])
        logits = torch.cat([cosines, other[:, None]], dim=1).double() / self._temperature
        return [self._choice(row, domains) for row in torch.softmax(logits, dim=1)]

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
