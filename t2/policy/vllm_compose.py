"""Composes the weights of an adapter's z where another process holds the model, from what that process reads itself.

    trainer                                        engine's process
    Specification: which matrices and which of  -> reads the same checkpoint, compares hashes, decomposes each matrix
    their singular values, hashes of weights       or reads the SVD cache, once
    z (k,) of each matrix, at every step        -> W' = W + (U_k s_k (z - 1)) Vh_k, and what is fused with it as it was

W' is what `SVF.merged_weights` yields in the trainer given the same vectors: bit for bit, or in float32 with part
of the spectrum but for the order of sums. On two machines that share no SVD cache vectors can differ in sign, which
cancels, and by rotations among equal singular values, which do not.

Not done here: any of vLLM (`t2.policy.vllm_worker`), messages between the two (`t2.policy.vllm_client`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from t2.adapters.fused_targets import refuse_stacks
from t2.adapters.svd import content_key, decompose_all, source_slug
from t2.adapters.svf import SVF
from t2.adapters.thin_correction import exact
from t2.models.language_model import LanguageModel
from t2.models.precision import dtype_name, parse_dtype
from t2.policy.vllm_weights import plain_name
from t2.run.fetch import cache_root


@dataclass(frozen=True)
class Matrix:
    """An adapted matrix: its weight's name in the checkpoint, and which of its singular values have a number."""

    weight: str
    index: list[int] | None  # (k,); None: all R
    top: int | None  # so many of the largest are enough to decompose; None: all
    transposed: bool  # the checkpoint holds (n_in, n_out)


@dataclass(frozen=True)
class Specification:
    """Which model and adapter a trainer has; `matrices` are by the name of the module, `hashes` by that of a weight."""

    svd_folder: str | None  # below the cache folder of t2; None: cache nothing
    dtype: str  # of the trainer's weights and factors
    matrices: dict[str, Matrix]
    hashes: dict[str, str]

    def to_json(self) -> str:
        """The inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Specification:
        """The specification of a text that `to_json` wrote."""
        read = json.loads(text)
        return cls(**read | {"matrices": {name: Matrix(**one) for name, one in read["matrices"].items()}})

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of all of it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def specification_of(lm: LanguageModel, adapter: SVF) -> Specification:
    """What an engine has to know of the trainer's model and adapter; hashes all weights once."""
    refuse_stacks(adapter.stacks, "generation=vllm_server", "Use generation=hf")
    matrices = {
        name: Matrix(
            weight=f"{adapter.paths[name]}.weight",
            index=None if learned.is_all else learned.index.tolist(),
            top=adapter.spectrum.count(learned.size) if adapter.truncates else None,
            transposed=isinstance(adapter.layers[name].base, Conv1D),
        )
        for name, learned in adapter.learned.items()
    }
    return Specification(
        svd_folder=source_slug(lm.source) if adapter.cache else None,
        dtype=dtype_name(lm.dtype),
        matrices=matrices,
        hashes={plain: content_key(p) for name, p in lm.model.named_parameters() if (plain := plain_name(name))},
    )


class Composer:
    """The frozen weights and factors of the adapted matrices, and what is fused with them."""

    @torch.no_grad()
    def __init__(self, spec: Specification, checkpoint: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
        """Read the weights of the checkpoint (name, weight), compare them, and decompose those that are adapted.

        Raises:
            ValueError: they are not those of the trainer; or what `decompose_all` refuses.
        """
        self.spec = spec
        self.weights = self._read(checkpoint, device)
        matrices = {one.weight.removesuffix(".weight"): one for one in spec.matrices.values()}
        dense = {path: self._dense(one) for path, one in matrices.items()}
        top = {path: one.top for path, one in matrices.items() if one.top is not None}
        folder = cache_root() / "svd" / spec.svd_folder if spec.svd_folder is not None else None
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}  # weight -> U s (n_out, k), Vh (k, n_in)
        for path, parts in decompose_all(dense, folder=folder, progress=False, top=top):
            matrix, dtype = matrices[path], parse_dtype(spec.dtype)
            used = parts if matrix.index is None else parts.only(torch.tensor(matrix.index, device=parts.s.device))
            self.factors[matrix.weight] = (used.U * used.s).to(dtype), used.Vh.to(dtype)

    def _read(self, checkpoint: Iterable[tuple[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
        """The adapted weights and their siblings, by name, those of one parent side by side."""
        parents = {_parent(one.weight) for one in self.spec.matrices.values()}
        kept, differing, compared = {}, [], 0
        for name, read in checkpoint:
            if name not in self.spec.hashes:
                continue  # such as a head that is tied to the embeddings
            weight = read.to(parse_dtype(self.spec.dtype))
            compared += 1
            if content_key(weight) != self.spec.hashes[name]:
                differing.append(name)
            if _parent(name) in parents:
                kept[name] = weight.to(device, copy=True).contiguous()
        missing = [one.weight for one in self.spec.matrices.values() if one.weight not in kept]
        if differing or missing:
            example = f"{differing[0]} for one" if differing else f"{missing[0]} is missing"
            raise ValueError(f"{len(differing)} of {compared} weights differ and {len(missing)} are missing, {example}")
        return dict(sorted(kept.items(), key=lambda item: _parent(item[0])))

    def _dense(self, matrix: Matrix) -> Tensor:
        weight = self.weights[matrix.weight]
        return weight.T if matrix.transposed else weight

    @torch.no_grad()
    def compose(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, weight) of every weight that is adapted or fused with one that is; a z (k,) by module.

        Matrices that `state` leaves out have z = 1.
        """
        z = {self.spec.matrices[name].weight: value for name, value in state.items()}
        transposed = {one.weight: one.transposed for one in self.spec.matrices.values()}
        for name, weight in self.weights.items():
            if name not in z:
                yield name, weight
                continue
            output, vh = self.factors[name]
            change = (exact(output) * (z[name].to(output.device) - 1.0)) @ exact(vh)
            yield name, (exact(weight) + (change.T if transposed[name] else change)).to(weight.dtype)


def _parent(name: str) -> str:
    """The module that holds the module of a weight: what is fused has one parent."""
    return name.rpartition(".")[0].rpartition(".")[0]
