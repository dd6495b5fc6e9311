"""Which singular values of a matrix have a learned number, and which of the numbers are one and the same.

The paper (arXiv 2501.06252, section 3.1) learns a multiplier for each of the R singular values. Here K of them may be
chosen, for every matrix alike:

    all       all R
    top       the k largest           middle    the k in the middle       random    k at random, by the seed
    bottom    the k smallest          strided   k evenly spaced           energy    the fewest largest ones whose
                                                                                    squares sum to that share

`groups` makes neighbours among them share a number, and `tie` makes matrices share a vector. Experts do not know of it:
a state has R multipliers for each matrix, exactly 1 where nothing is learned.

Not done here: decompositions (`t2.adapters.svd`), what the numbers mean (`t2.adapters.parametrizations`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from t2.run.messages import check_choice, check_range

SpectrumName = Literal["all", "top", "bottom", "middle", "random", "strided", "energy"]
Tie = Literal["none", "layers", "modules", "all"]
_BLOCK = re.compile(r"(?P<before>.*?)\.(?P<layer>\d+)\.(?P<kind>.+)")  # model.layers.3.mlp.up_proj


@dataclass(frozen=True)
class Spectrum:
    """The choice of learned numbers. `rank` is k, `share` is k / R (of `energy`: the share of the squared sum)."""

    name: SpectrumName = "all"
    rank: int | None = None
    share: float | None = None
    groups: int | None = None
    tie: Tie = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for values that are not allowed, or that contradict each other."""
        check_choice("adapter.spectrum", self.name, get_args(SpectrumName))
        check_choice("adapter.tie", self.tie, get_args(Tie))
        if self.rank is not None:
            check_range("adapter.rank", self.rank, at_least=1)
        if self.share is not None:
            check_range("adapter.share", self.share, above=0, at_most=1)
        if self.groups is not None:
            check_range("adapter.groups", self.groups, at_least=1)
        if self.name == "all" and (self.rank, self.share) != (None, None):
            key = "rank" if self.rank is not None else "share"
            raise ValueError(
                f"adapter.{key} is set and adapter.spectrum is 'all', which learns every singular value. Set "
                f"adapter.spectrum to say which ({', '.join(get_args(SpectrumName)[1:])}), or adapter.{key}=null."
            )
        if self.name == "energy" and (self.share is None or self.rank is not None):
            raise ValueError("adapter.spectrum=energy takes adapter.share, above 0 and at most 1, and no adapter.rank.")
        if self.name != "all" and (self.rank is None) == (self.share is None):
            raise ValueError(
                f"adapter.spectrum={self.name} takes either adapter.rank (how many singular values) or adapter.share "
                f"(which share of them, above 0 and at most 1); got rank={self.rank} and share={self.share}."
            )

    @property
    def is_default(self) -> bool:
        """Whether every singular value has a number of its own."""
        return self.name == "all" and self.groups is None and self.tie == "none"

    def __str__(self) -> str:
        """The choice as it is written on a command line, without the prefix `adapter.`: `spectrum=top rank=16`."""
        given = {"rank": self.rank, "share": self.share, "groups": self.groups}
        words = [f"spectrum={self.name}", *(f"{key}={value:g}" for key, value in given.items() if value is not None)]
        words += [f"tie={self.tie}"] if self.tie != "none" else []
        words += [f"seed={self.seed}"] if self.name == "random" else []
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> Spectrum:
        """The inverse of `str`; ValueError where the text is not what it writes."""
        words = dict(word.partition("=")[::2] for word in text.split())
        try:
            return cls(
                name=cast(SpectrumName, words.pop("spectrum")),
                share=float(words.pop("share")) if "share" in words else None,
                tie=cast(Tie, words.pop("tie", "none")),
                **{key: int(value) for key, value in words.items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{text!r} names no part of a spectrum, such as 'spectrum=top rank=16': {error}") from None

    def check(self, sizes: Mapping[str, int]) -> None:
        """Check the choice against the matrices, before any is decomposed: module -> R.

        Raises:
            ValueError: more singular values than a matrix has, or more groups than it has learned numbers.
        """
        for module, size in sizes.items():
            if self.rank is not None and self.rank > size:
                raise ValueError(
                    f"adapter.rank is {self.rank}, and {module} has {size} singular values; allowed: 1 to "
                    f"{min(sizes.values())} for these matrices. adapter.share takes a share of each, and "
                    "adapter.modules other matrices."
                )
            if self.name != "energy":
                self._check_groups(module, self.count(size))

    def count(self, size: int) -> int:
        """The number k of learned singular values out of `size`; that of `energy` is found in `select`."""
        assert self.name != "energy", "it depends on the singular values"
        if self.rank is not None:
            return self.rank
        share = 1.0 if self.share is None else self.share
        return max(1, math.ceil(round(share * size, 6)))  # 0.07 * 100 is 7.000000000000001

    def select(self, module: str, s: Tensor, *, number: int) -> Tensor:
        """The indices (k,), ascending, of the learned singular values out of s (R,) of the `number`th matrix.

        Where only the largest of s are known (`top`), the others are NaN.

        Raises:
            ValueError: the chosen singular values are all 0, so that no number would do anything, or there are more
                groups than numbers.
        """
        index = self._indices(s, number).to(s.device)
        rounding = len(s) * torch.finfo(s.dtype).eps * s[0]  # what LAPACK leaves of a singular value that is 0
        if self.name != "all" and not bool((s[index] > rounding).any()):
            raise ValueError(
                f"adapter.spectrum={self.name}: all chosen singular values of {module} are 0, so that nothing can be "
                "learned there. Choose others (adapter.spectrum=top), or leave the matrix out (adapter.modules)."
            )
        self._check_groups(module, len(index))
        return index

    def _indices(self, s: Tensor, number: int) -> Tensor:
        size = len(s)
        if self.name == "energy":
            energy = s.double().square().cumsum(0)  # in descending order, as s
            assert self.share is not None, "checked at construction"
            kept = int((energy < self.share * energy[-1] * (1 - 1e-12)).sum()) + 1  # share=1 does not ask for zeros
            return torch.arange(min(kept, size))
        k = self.count(size)
        if self.name == "random":
            draw = torch.Generator().manual_seed(self.seed + number)
            return torch.randperm(size, generator=draw)[:k].sort().values
        if self.name == "strided":
            return torch.tensor([(2 * i + 1) * size // (2 * k) for i in range(k)])
        start = {"bottom": size - k, "middle": (size - k) // 2}.get(self.name, 0)
        return torch.arange(start, start + k)

    def _check_groups(self, module: str, count: int) -> None:
        if self.groups is not None and self.groups > count:
            raise ValueError(
                f"adapter.groups is {self.groups}, and {count} singular values of {module} are learned; allowed: 1 to "
                f"{count}."
            )

    def group_of(self, count: int) -> Tensor:
        """The group of each of `count` learned numbers, (k,): neighbours, in sizes that differ by at most one."""
        groups = count if self.groups is None else self.groups
        return torch.arange(count) * groups // count

    def vector_key(self, module: str, length: int) -> str:
        """The name of the vector of `length` that a module learns; modules with one name share it."""
        if self.tie == "none":
            return module
        found = _BLOCK.fullmatch(module)
        assert found is not None, f"{module} is in no decoder block"
        named = {"layers": ["kind"], "modules": ["layer"], "all": []}[self.tie]
        return ".".join(["shared", *(found[part] for part in named), str(length)])


def learned_count(learned: str | None, scales: Mapping[str, Tensor]) -> int:
    """How many numbers an expert with these multipliers, module -> z (R,), has learned; `learned` is its `Spectrum`.

    That of `energy` depended on the singular values: the largest one whose multiplier is not 1 was the last then.

    Raises:
        ValueError: `learned` is no spectrum.
    """
    spectrum = Spectrum() if learned is None else Spectrum.parse(learned)
    lengths: dict[str, int] = {}  # of the vectors, of which matrices may share one
    for module, z in scales.items():
        changed = (z != 1).nonzero()[:, 0].tolist()
        count = max(changed, default=-1) + 1 if spectrum.name == "energy" else spectrum.count(len(z))
        length = count if spectrum.groups is None else spectrum.groups
        lengths[spectrum.vector_key(module, length)] = length
    return sum(lengths.values())


@dataclass(frozen=True)
class Learned:
    """The singular values of one matrix that have a number: `index` (k,), ascending and on the CPU, out of `size`."""

    module: str
    index: Tensor
    size: int

    @property
    def is_all(self) -> bool:
        """Whether all of them do."""
        return len(self.index) == self.size

    @property
    def mask(self) -> Tensor:
        """Which do, bool (R,)."""
        return torch.zeros(self.size, dtype=torch.bool).index_fill(0, self.index, True)

    def of(self, z: Tensor) -> Tensor:
        """The multipliers (..., k) of those that do, out of all (..., R), differentiable.

        Raises:
            ValueError: another multiplier is not 1.
        """
        if self.is_all:
            return z
        changed = z.detach()[..., ~self.mask.to(z.device)] != 1
        if bool(changed.any()):
            rest = (~self.mask).nonzero()[:, 0]
            first = int(rest[changed.reshape(-1, len(rest)).any(0).cpu()][0])
            raise ValueError(
                f"{self.module}: multiplier {first} is not 1, and this adapter has the factors of {len(self.index)} of "
                f"{self.size} singular values alone, {first} not among them. Set adapter.spectrum=all, which applies "
                "every expert, or what the expert was trained with."
            )
        return z[..., self.index.to(z.device)]

    def full(self, z: Tensor) -> Tensor:
        """All multipliers (R,), 1 where nothing is learned, from those (k,) that are."""
        return z if self.is_all else torch.ones(self.size, dtype=z.dtype).index_copy(0, self.index, z)
