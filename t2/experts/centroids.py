"""Centroids: a vector per domain of a pool and one per task of it, mean hidden states of prompts, and their file.

They belong to a model and to a layer of it, and to the names of a pool's domains, not to its experts: an expert that is
trained again keeps its vector, and a new one adds its own. A file is safetensors with string metadata; nothing is
unpickled. Beyond the paper. Not done here: computing hidden states (`t2.policy.mean_states`), choosing by them
(`t2.adaptation.centroid`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import t2
from t2.experts.fingerprint import same_weights, weights_note
from t2.run.messages import did_you_mean
from t2.run.places import located, typed
from t2.run.results import CENTROIDS_FILE
from t2.run.tensor_files import read_tensors, save_tensors
from t2.types import OTHER

FORMAT_VERSION = 2
POOLING = "mean over the tokens of the bare prompt but the first"
AGAIN = f"Make it again: {typed('adapt')} experts=POOL strategy=centroid task=TASK, with a dispatch task."


@dataclass(frozen=True)
class Source:
    """The prompts behind a vector, and those behind its cosines: how many, and the sha256 of their JSON list."""

    prompts: int
    sha256: str
    val_prompts: int
    val_sha256: str


@dataclass(frozen=True)
class Prototype:
    """A mean (D,) in fp32, and the cosines (n,) with it of validation prompts of its own, which are not part of it."""

    vector: Tensor
    cosines: Tensor

    def __post_init__(self) -> None:
        """Raise ValueError unless both are finite numbers, and there are some."""
        if self.vector.ndim != 1 or self.cosines.ndim != 1 or not len(self.cosines):
            raise ValueError(
                f"a vector has the shape {tuple(self.vector.shape)} and its cosines {tuple(self.cosines.shape)}; "
                "expected (D,) and (n,), of n prompts."
            )
        if not bool(torch.cat([self.vector, self.cosines]).isfinite().all()):
            raise ValueError("a vector or its cosines are not finite.")

    def threshold(self, share: float) -> float:
        """The cosine that a prompt of its own is below with a probability of about `share`.

        The k-th lowest of the n that validation prompts have, k = share (n + 1) rounded down (split conformal
        prediction, arXiv 2107.07511), and the lowest where that is 0: then the probability is 1 / (n + 1).
        """
        own = self.cosines.sort().values
        return float(own[max(1, math.floor(share * (len(own) + 1))) - 1])


@dataclass(frozen=True)
class Centroids:
    """The prototype of each label, and those of its tasks.

    Labels are domains, and `other` where there were prompts that no expert is for. `accuracy` is that of each layer in
    cross-validation; empty where the layer was given. `prompts` are hashes (`t2.tasks.prompt_hash`) of all prompts
    behind vectors and cosines; None: unknown.
    """

    labels: Mapping[str, Prototype]
    tasks: Mapping[str, Mapping[str, Prototype]]  # label -> task -> prototype
    sources: Mapping[str, Source]
    layer: int  # the decoder block, the first is 1
    base_model: str
    fingerprint: str  # `t2.experts.fingerprint.fingerprint_of` the model's singular values
    task: str
    accuracy: Mapping[int, float]
    prompts: frozenset[str] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless every label has a prototype, tasks and a source, and vectors have one size."""
        if not self.labels or not self.labels.keys() == self.tasks.keys() == self.sources.keys():
            raise ValueError(
                f"it has prototypes of {_listed(self.labels)}, tasks of {_listed(self.tasks)} and prompts of "
                f"{_listed(self.sources)}; each label has one of each."
            )
        without = [label for label, own in self.tasks.items() if not own]
        if without:
            raise ValueError(f"no task of {_listed(without)} has a prototype; each label has one or more.")
        every = [*self.labels.values(), *(one for own in self.tasks.values() for one in own.values())]
        if len({len(one.vector) for one in every}) > 1:
            raise ValueError(f"its vectors have {sorted({len(one.vector) for one in every})} numbers; one D for all.")

    @property
    def domains(self) -> tuple[str, ...]:
        """The labels without `other`."""
        return tuple(label for label in self.labels if label != OTHER)

    def check(self, domains: Sequence[str], *, base_model: str, fingerprint: str, layer: int | None = None) -> None:
        """Raise ValueError unless these are for the domains, the loaded model and, if one is given, the layer."""
        wrong = []
        if self.base_model != base_model or not same_weights(self.fingerprint, fingerprint):
            wrong.append(
                f"they are of the model {self.base_model}, and {base_model} is loaded "
                f"({weights_note(self.fingerprint, fingerprint)})"
            )
        if layer is not None and layer != self.layer:
            wrong.append(f"they are of layer {self.layer}, and strategy.layer is {layer}")
        if sorted(self.domains) != sorted(domains):
            wrong.append(f"they are for the domains {_listed(self.domains)}, and the pool has {_listed(domains)}")
        if wrong:
            raise ValueError(f"The pool's centroids do not fit: {'; '.join(wrong)}. {AGAIN}")

    def save(self, path: Path) -> Path:
        """Write the file and return its path; what was there stays intact if writing fails.

        Raises:
            OSError: the file cannot be written, a full disk included.
        """
        about: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "base_model": self.base_model,
            "layer": self.layer,
            "pooling": POOLING,
            "task": self.task,
            "sources": {label: vars(source) for label, source in self.sources.items()},
            "accuracy": {str(layer): share for layer, share in self.accuracy.items()},
            "t2_version": t2.__version__,
        }
        if self.prompts is not None:
            about["prompts"] = sorted(self.prompts)
        strings = {name: json.dumps(value) for name, value in about.items()} | {"fingerprint": self.fingerprint}
        every = dict(self.labels) | {
            f"{label}/{task}": one for label, own in self.tasks.items() for task, one in own.items()
        }
        # Cloned because safetensors refuses tensors that share memory.
        flat = {f"vectors/{name}": one.vector.float().clone() for name, one in every.items()} | {
            f"cosines/{name}": one.cosines.float().clone() for name, one in every.items()
        }
        save_tensors(path, flat, strings)
        return path

    @classmethod
    def load(cls, path: Path | str) -> Centroids:
        """Read a file, or the one in a folder; `check` tells whether it fits a model and a pool.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds no centroids, or its content is damaged.
        """
        path = located(path)
        path = path / CENTROIDS_FILE if path.is_dir() else path
        if not path.is_file():
            hint = did_you_mean(path.name, sorted(other.name for other in path.parent.glob("*.safetensors")))
            raise FileNotFoundError(f"No centroids at {path}.{hint} {AGAIN}")
        tensors, strings = read_tensors(path)
        try:
            return cls._parse(tensors, strings)
        except (KeyError, TypeError, ValueError) as error:  # JSONDecodeError is a ValueError
            what = f"its metadata lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} cannot be used as centroids: {what} {AGAIN}") from error

    @classmethod
    def _parse(cls, tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> Centroids:
        if "pooling" not in strings:
            raise ValueError("it is a file of something else.")
        about = {name: json.loads(text) for name, text in strings.items() if name != "fingerprint"}
        if about["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format_version is {about['format_version']}; this t2 reads {FORMAT_VERSION}.")
        if about["pooling"] != POOLING:
            raise ValueError(f"its vectors are the {about['pooling']}; this t2 takes the {POOLING}.")
        labels: dict[str, Prototype] = {}
        tasks: dict[str, dict[str, Prototype]] = {}
        for name in sorted(name.removeprefix("vectors/") for name in tensors if name.startswith("vectors/")):
            label, _, task = name.partition("/")
            of = tasks.setdefault(label, {}) if task else labels
            of[task or label] = Prototype(tensors[f"vectors/{name}"], tensors[f"cosines/{name}"])
        return cls(
            labels=labels,
            tasks=tasks,
            sources={label: Source(**source) for label, source in about["sources"].items()},
            layer=int(about["layer"]),
            base_model=str(about["base_model"]),
            fingerprint=strings["fingerprint"],
            task=str(about["task"]),
            accuracy={int(layer): float(share) for layer, share in about["accuracy"].items()},
            prompts=frozenset(map(str, about["prompts"])) if "prompts" in about else None,
        )


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels)) or "nothing"
