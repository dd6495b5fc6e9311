"""A pool of experts: which domains there are, and what a mixture of them is (paper §3.2).

The order of the experts is the order of a mixture's mixing weights. Mixing is linear in z; the rules are those of
`t2.experts.mixture.Mixture`. Every expert of a pool is for the same matrices of the same model, and none is there twice
(the authors' few-shot configuration lists GSM8K's twice and ARC's not at all). Nothing here chooses: see
`t2.adaptation`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from t2.experts.expert import Expert, SingularValueAdapter
from t2.experts.fingerprint import fingerprint_of, same_weights, weights_note
from t2.experts.mixture import Mixture
from t2.types import OTHER

DISPATCH = "dispatch"  # the domain of the expert that is applied while choosing
RESERVED_DOMAINS = {
    OTHER: "the label of prompts that no expert is for, which the base model answers; rename the domain",
    DISPATCH: "the expert that is applied while choosing; give it as the pool's `dispatch`",
}


@dataclass(frozen=True)
class ExpertPool:
    """Domain -> expert, in the order of a mixture's mixing weights; `dispatch` is an expert for choosing among them."""

    experts: Mapping[str, Expert]
    dispatch: Expert | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless the experts can be mixed: distinct, and for the same matrices of one model."""
        if not self.experts:
            raise ValueError("The pool is empty. Give at least one domain and its expert file.")
        object.__setattr__(self, "experts", dict(self.experts))  # of its own: what is cached below stays true
        (first, expert), *others = self.experts.items()
        _check_domain(first)
        for domain, other in others:
            _check_domain(domain)
            _check_same_model(first, expert, domain, other)
            _check_same_matrices(first, expert, domain, other)
        if self.dispatch is not None:
            _check_same_model(first, expert, DISPATCH, self.dispatch)
        owners: dict[str, str] = {}
        for domain, digest in self._digests.items():
            owner = owners.setdefault(digest, domain)
            if owner != domain:
                raise ValueError(
                    f"The experts of {owner!r} and {domain!r} hold the same numbers, so one expert is listed twice. "
                    "Give each domain its own file."
                )

    @classmethod
    def load(cls, experts: Mapping[str, Path | str] | Path | str, dispatch: Path | str | None = None) -> ExpertPool:
        """Read a pool: domain -> expert file or training run's folder, or one folder of *.safetensors.

        In a folder an expert's domain is the one it was saved with, and the order is that of the domains' names; the
        one of the domain `dispatch` becomes the pool's dispatch expert.

        Raises:
            FileNotFoundError: a file or the folder is not there.
            ValueError: a file is no expert, or the experts cannot be in one pool.
        """
        chooser = None if dispatch is None else _read(DISPATCH, dispatch)
        if isinstance(experts, Mapping):
            return cls({domain: _read(domain, place) for domain, place in experts.items()}, chooser)
        found = _read_folder(Path(experts))
        inside = found.pop(DISPATCH, None)
        if inside is not None and chooser is not None:
            raise ValueError(f"{experts} holds a dispatch expert, and dispatch={dispatch} is another. Remove one.")
        if not found:
            raise ValueError(f"{experts} holds a dispatch expert alone. Add an expert of at least one domain.")
        return cls(found, chooser if inside is None else inside)

    @property
    def domains(self) -> tuple[str, ...]:
        """The K domains, in the order of a mixture's mixing weights."""
        return tuple(self.experts)

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The M adapted matrices, in the order of the columns of (K, M) mixing weights: by name, block 2 before block
        10."""
        return tuple(sorted(self.experts[self.domains[0]].scales, key=_natural))

    @cached_property
    def identity(self) -> str:
        """16 hex digits of the domains and their experts' numbers, whatever their order; dispatch does not count."""
        return hashlib.sha256(repr(sorted(self._digests.items())).encode()).hexdigest()[:16]

    def with_expert(self, domain: str, expert: Expert) -> ExpertPool:
        """The pool with one expert more at the end, or replaced in its place.

        Raises:
            ValueError: the expert does not go with the others.
        """
        return replace(self, experts={**self.experts, domain: expert})

    def check(self, adapter: SingularValueAdapter, *, source: str, transfer: bool = False) -> None:
        """Raise ValueError unless the experts fit the model from `source` that wears `adapter`, matrix by matrix.

        `transfer` accepts experts of another model, as long as their modules and sizes fit.
        """
        values = adapter.singular_values
        shapes = {module: len(s) for module, s in values.items()}
        fingerprint = fingerprint_of(values)
        chooser = {} if self.dispatch is None else {DISPATCH: self.dispatch}
        for domain, expert in {**self.experts, **chooser}.items():
            try:
                expert.check(base_model=source, fingerprint=fingerprint, shapes=shapes, transfer=transfer)
            except ValueError as error:
                raise ValueError(f"The expert of {domain!r} does not fit: {error}") from error
        left = sorted(shapes.keys() - set(self.modules), key=_natural)
        if left:
            raise ValueError(
                f"The adapter wraps {len(shapes)} matrices and the pool's experts are for {len(self.modules)} of them; "
                f"{left[0]} is none. Set adapter.modules and adapter.layers to what they were in training."
            )

    def check_mixture(self, mixture: Mixture) -> None:
        """Raise ValueError unless the mixture has mixing weights for these K experts, and 1 or M of them each."""
        rows, columns = len(mixture.weights), len(mixture.weights[0])
        if rows != len(self.experts):
            raise ValueError(
                f"Got a mixture of {rows} experts, expected {len(self.experts)}: {', '.join(self.domains)}."
            )
        if columns not in (1, len(self.modules)):
            raise ValueError(
                f"Got a mixture with {columns} mixing weights per expert, expected 1, or {len(self.modules)}: one per "
                "matrix."
            )

    def state(self, mixture: Mixture) -> dict[str, Tensor]:
        """What one example gets: module -> effective multipliers (R,), fp32.

        Raises:
            ValueError: the mixture is for another number of experts or matrices.
        """
        return {module: rows[0] for module, rows in self.scales([mixture]).items()}

    def scales(self, mixtures: Sequence[Mixture]) -> dict[str, Tensor]:
        """What D mixtures are: module -> effective multipliers (D, R), fp32.

        Raises:
            ValueError: no mixture, or one that is for another number of experts or matrices.
        """
        if not mixtures:
            raise ValueError("Got no mixtures to make scales of, expected at least one.")
        for mixture in mixtures:
            self.check_mixture(mixture)
        shape = (len(self.experts), len(self.modules))
        weights = torch.stack(
            [torch.tensor(m.weights, dtype=torch.float64).expand(shape) for m in mixtures]
        )  # (D, K, M)
        # Both rules are c + Σ_k α_k (z_k - 1); c is 1 under delta and Σ_k α_k, in float64, under paper.
        is_delta = torch.tensor([mixture.rule == "delta" for mixture in mixtures])[:, None]  # (D, 1)
        origins = torch.where(is_delta, 1.0, weights.sum(dim=1)).float()  # (D, M)
        return {
            module: torch.addmm(origin[:, None], weight, self._deltas[module])
            for module, origin, weight in zip(
                self.modules, origins.unbind(1), weights.float().permute(2, 0, 1).contiguous(), strict=True
            )
        }

    @cached_property
    def _deltas(self) -> dict[str, Tensor]:
        """Module -> z - 1 of the K experts (K, R), fp32: small numbers, of which fp32 keeps every digit."""
        experts = self.experts.values()
        return {module: torch.stack([expert.scales[module] for expert in experts]) - 1.0 for module in self.modules}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {domain: _digest(expert) for domain, expert in self.experts.items()}


def _check_domain(domain: str) -> None:
    if not domain or domain != domain.strip():
        raise ValueError(f"The domain {domain!r} is empty or has spaces around it; a domain is a label such as math.")
    if domain.casefold() in RESERVED_DOMAINS:
        raise ValueError(f"No expert's domain may be called {domain!r}: that is {RESERVED_DOMAINS[domain.casefold()]}.")


def _check_same_model(first: str, a: Expert, second: str, b: Expert) -> None:
    one, other = a.metadata, b.metadata
    if one.base_model == other.base_model and same_weights(one.fingerprint, other.fingerprint):
        return
    raise ValueError(
        f"The experts of {first!r} and {second!r} are of different models: {one.base_model} and {other.base_model}. "
        f"{weights_note(one.fingerprint, other.fingerprint)} Mix experts of one model; "
        "t2.experts.transfer brings one over."
    )


def _check_same_matrices(first: str, a: Expert, second: str, b: Expert) -> None:
    differing = sorted(a.scales.keys() ^ b.scales.keys(), key=_natural)
    if differing:
        owner = first if differing[0] in a.scales else second
        raise ValueError(
            f"The experts of {first!r} and {second!r} scale different modules, {len(differing)} in all: {differing[0]} "
            f"is in that of {owner!r} alone. Train both with the same adapter.modules and adapter.layers."
        )
    for module, z in a.scales.items():
        if z.shape != b.scales[module].shape:
            raise ValueError(
                f"The experts of {first!r} and {second!r} have {len(z)} and {len(b.scales[module])} values for "
                f"{module}: they are of models of different sizes. Mix experts of one model."
            )


def _read(domain: str, place: Path | str) -> Expert:
    try:
        return Expert.load(Expert.find(place))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The expert of {domain!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"The expert of {domain!r}: {error}") from error


def _read_folder(folder: Path) -> dict[str, Expert]:
    """The experts of a folder by their domains, sorted."""
    if not folder.is_dir():
        near = get_close_matches(folder.name, [path.name for path in folder.parent.glob("*") if path.is_dir()], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise FileNotFoundError(f"No folder of experts at {folder}.{hint} Give a folder of *.safetensors files.")
    experts: dict[str, Expert] = {}
    files: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        expert = Expert.load(path)
        domain = expert.metadata.domain
        if domain in experts:
            raise ValueError(
                f"{folder} holds two experts of the domain {domain!r}, {files[domain]} and {path.name}. Remove one, or "
                "give the pool as domain -> file."
            )
        experts[domain], files[domain] = expert, path.name
    if not experts:
        raise FileNotFoundError(f"{folder} holds no *.safetensors file. Give a folder of experts.")
    return dict(sorted(experts.items()))


def _digest(expert: Expert) -> str:
    digest = hashlib.sha256()
    for module in sorted(expert.scales):
        digest.update(f"{module} {len(expert.scales[module])};".encode())
        digest.update(expert.scales[module].detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
