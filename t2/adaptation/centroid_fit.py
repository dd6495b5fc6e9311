"""Makes the centroids of a pool out of a dispatch task: vectors of its train prompts, cosines of its val prompts.

The layer is the one that is best in cross-validation on the train prompts. Every prompt is asked about once, under
vectors without its fold: its own task where its label has several, so that wordings which no vector has seen decide;
one prompt in five where the label has one task. No test prompt is part of a vector. Choosing by the vectors is in
`t2.adaptation.centroid`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.adapters.targets import decoder_blocks
from t2.experts.centroids import Centroids, Prototype, Source
from t2.experts.fingerprint import fingerprint_of, same_weights
from t2.policy.mean_states import check_layer, mean_states
from t2.tasks.base import Split
from t2.tasks.dispatch import Dispatch
from t2.tasks.prompt_hash import prompt_hashes
from t2.tasks.splits import question_of
from t2.types import OTHER

log = logging.getLogger(__name__)
FOLDS = 5  # of a label with one task

_OfLabel = tuple[Prototype, Mapping[str, Prototype]]  # the label's, and those of its tasks


@dataclass(frozen=True)
class _Prompts:
    """The prompts of a split with their labels and tasks."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    tasks: tuple[str, ...]

    def of(self, label: str, task: str | None = None) -> list[str]:
        """The prompts of a label, or of one task of it, sorted: with one label more they come in another order."""
        rows = zip(self.texts, self.labels, self.tasks, strict=True)
        return sorted(text for text, own, of in rows if own == label and task in (None, of))

    def tasks_of(self, label: str) -> list[str]:
        """The tasks that a label has prompts of."""
        return sorted({of for own, of in zip(self.labels, self.tasks, strict=True) if own == label})


def make_centroids(model: PooledModel, task: Dispatch, *, layer: int | None = None) -> Centroids:
    """The centroids of the labels of a dispatch task, at the best layer, or at the one given.

    With a given layer, labels whose prompts are those of the pool's own centroids keep their vectors, so that a new
    expert costs the prompts of its own domain.

    Raises:
        ValueError: the task's labels are not the pool's domains, or the model has no such layer.
    """
    train, val = _prompts(task, "train"), _prompts(task, "val")
    labels = sorted(set(train.labels))
    if sorted(set(labels) - {OTHER}) != sorted(model.pool.domains):
        raise ValueError(
            f"{task.name} has the labels {', '.join(labels)}, and the pool's domains are "
            f"{', '.join(model.pool.domains)}. Take a dispatch task of these domains, such as task=dispatch_wide "
            "+task@task.domains.LABEL=TASK."
        )
    accuracy: dict[int, float] = {}
    with model.adapter.disabled():
        if layer is None:
            accuracy = _accuracies(model, train)
            layer = _best(accuracy)
        check_layer(model.lm, layer)
        sources = {label: Source(*_digest(train.of(label)), *_digest(val.of(label))) for label in labels}
        kept = _known(model, sources, layer)
        missing = [label for label in labels if label not in kept]
        log.info("Centroids of %s at layer %d.", ", ".join(missing) or "nothing new", layer)
        made = kept | {label: _of_label(model, label, train, val, layer) for label in missing}
    return Centroids(
        labels={label: made[label][0] for label in labels},
        tasks={label: made[label][1] for label in labels},
        sources=sources,
        layer=layer,
        base_model=model.lm.source,
        fingerprint=fingerprint(model),
        task=task.name,
        accuracy=accuracy,
        prompts=prompts_of(task),
    )


def prompts_of(task: Dispatch) -> frozenset[str]:
    """Hashes of the prompts that decide about the vectors and the cosines of a task."""
    return frozenset(prompt_hashes([*task.split("train"), *task.split("val")]))


def cosines_of(states: Tensor, vectors: Tensor) -> Tensor:
    """Cosines (B, K) of states (B, D) with vectors (K, D)."""
    return F.normalize(states, dim=-1) @ F.normalize(vectors, dim=-1).T


def fingerprint(model: PooledModel) -> str:
    """The fingerprint of the loaded model's adapted matrices.

    Raises:
        ValueError: the adapter knows no singular values.
    """
    if not isinstance(model.adapter, SVF):
        raise ValueError("Centroids name the model by its singular values, and the adapter is no SVF; set adapter=svf.")
    return fingerprint_of(model.adapter.singular_values, model.adapter.frobenius_norms)


def _prompts(task: Dispatch, split: Split) -> _Prompts:
    examples = task.split(split)
    return _Prompts(
        texts=tuple(question_of(one) for one in examples),
        labels=tuple(str(one.answer) for one in examples),
        tasks=tuple(str(one.metadata["task"]) for one in examples),
    )


def _accuracies(model: PooledModel, train: _Prompts) -> dict[int, float]:
    """Layer -> accuracy in cross-validation, averaged over labels."""
    layers = range(1, len(decoder_blocks(model.lm.model)[1]) + 1)
    states = mean_states(model.lm, train.texts, layers)  # (B, L, D)
    folds = _folds(train)
    return {layer: _accuracy(states[:, at], train.labels, folds) for at, layer in enumerate(layers)}


def _best(accuracy: Mapping[int, float]) -> int:
    """The layer with the highest accuracy; of equals the one nearest to the middle of the model, then the first.

    Where a label has one task, words tell labels apart as well as meanings do, and early layers are at 1.0, too.
    """
    return max(accuracy, key=lambda layer: (accuracy[layer], -abs(layer - len(accuracy) / 2), -layer))


def _folds(prompts: _Prompts) -> list[Hashable]:
    """The fold of each prompt: its task where its label has several, else a number."""
    tasks = Counter(label for label, _ in set(zip(prompts.labels, prompts.tasks, strict=True)))
    seen: Counter[str] = Counter()
    folds: list[Hashable] = []
    for label, task in zip(prompts.labels, prompts.tasks, strict=True):
        folds.append((label, task) if tasks[label] > 1 else (label, seen[label] % FOLDS))
        seen[label] += 1
    return folds


def _accuracy(states: Tensor, labels: Sequence[str], folds: Sequence[Hashable]) -> float:
    """The share of right labels by nearest mean without the prompt's own fold, averaged over labels; states (B, D)."""
    names = sorted(set(labels))
    own = torch.tensor([names.index(label) for label in labels])
    right: dict[str, list[bool]] = {name: [] for name in names}
    for fold in dict.fromkeys(folds):
        inside = torch.tensor([one == fold for one in folds])
        if not all(bool(((own == at) & ~inside).any()) for at in range(len(names))):
            continue  # a label with one prompt has no other to compare with
        vectors = torch.stack([states[(own == at) & ~inside].mean(dim=0) for at in range(len(names))])
        nearest = cosines_of(states[inside], vectors).argmax(dim=1)
        for name, is_right in zip(own[inside].tolist(), (nearest == own[inside]).tolist(), strict=True):
            right[names[name]].append(is_right)
    shares = [sum(found) / len(found) for found in right.values() if found]
    return sum(shares) / len(shares) if shares else 0.0


def _of_label(model: PooledModel, label: str, train: _Prompts, val: _Prompts, layer: int) -> _OfLabel:
    """The prototype of a label and those of its tasks; a task without validation prompts is not told apart."""

    def states(split: _Prompts) -> dict[str, Tensor]:  # task -> (n, D)
        return {task: mean_states(model.lm, split.of(label, task), [layer])[:, 0] for task in split.tasks_of(label)}

    def prototype(own: Tensor, held_out: Tensor) -> Prototype:
        vector = own.mean(dim=0)
        return Prototype(vector, cosines_of(held_out, vector[None])[:, 0])

    own, held_out = states(train), states(val)
    tasks = {task: prototype(own[task], held_out[task]) for task in own if task in held_out}
    return prototype(torch.cat([*own.values()]), torch.cat([*held_out.values()])), tasks


def _known(model: PooledModel, sources: dict[str, Source], layer: int) -> dict[str, _OfLabel]:
    """The pool's own centroids, of labels whose prompts, model and layer are the same."""
    known = model.pool.centroids
    if known is None or known.layer != layer or known.base_model != model.lm.source:
        return {}
    if not same_weights(known.fingerprint, fingerprint(model)):
        return {}
    same = [label for label, source in sources.items() if known.sources.get(label) == source]
    return {label: (known.labels[label], known.tasks[label]) for label in same}


def _digest(prompts: Sequence[str]) -> tuple[int, str]:
    """How many prompts, and the sha256 of their JSON list."""
    return len(prompts), hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
