"""A pool of experts by domain, and the multipliers z' of their mixtures (arXiv 2501.06252, section 3.2).

Mixing is linear in z, by the rules of `t2.experts.mixture.Mixture`, whose mixing weights are in the order of the pool.
A LoRA of PEFT may be among the experts (`t2.experts.lora_expert`): it leaves z at 1, and its own multiplier is 1 + α.
All others scale the same matrices of the same model, and none is listed twice (the authors' few-shot configuration
lists GSM8K's expert twice and ARC's not at all). Not done here: choosing mixtures (`t2.adaptation`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from t2.adapters.svf import SVF
from t2.experts.centroids import Centroids
from t2.experts.compatibility import DISPATCH, check_domain, check_same_matrices, check_same_model, natural_order
from t2.experts.expert import Expert
from t2.experts.fingerprint import fingerprint_of
from t2.experts.folder import read_expert, read_folder
from t2.experts.lora_expert import LoraExpert
from t2.experts.mixture import Mixture
from t2.run.places import located
from t2.run.results import CENTROIDS_FILE


@dataclass(frozen=True)
class ExpertPool:
    """K experts by domain, in the order of a mixture's mixing weights.

    `dispatch` and `centroids` are for choosing among them: the strategies `classifier` and `centroid`.
    """

    experts: Mapping[str, Expert | LoraExpert]
    dispatch: Expert | None = None
    centroids: Centroids | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless the experts are distinct and scale the same matrices of one model; one is SVF's."""
        if not self.experts:
            raise ValueError("The pool is empty. Give at least one domain and its expert file.")
        object.__setattr__(self, "experts", dict(self.experts))  # a copy, so that the cached properties stay valid
        if not self.svf:
            raise ValueError("All experts of the pool are LoRAs. Give an SVF expert, too; plain PEFT mixes LoRAs.")
        for domain in self.experts:
            check_domain(domain)
        (first, expert), *others = self.svf.items()
        for domain, lora in self.loras.items():
            if left := lora.changes.keys() - expert.scales.keys():
                raise ValueError(
                    f"The LoRA of {domain!r} changes {len(left)} modules that the expert of {first!r} does not scale: "
                    f"{min(left, key=natural_order)}. Train experts with adapter.modules=all, or a LoRA without them."
                )
        for domain, other in others:
            check_same_model(first, expert, domain, other)
            check_same_matrices(first, expert, domain, other)
        if self.dispatch is not None:
            check_same_model(first, expert, DISPATCH, self.dispatch)
        owners: dict[str, str] = {}
        for domain, digest in self._digests.items():
            owner = owners.setdefault(digest, domain)
            if owner != domain and not (domain in self.svf and self.svf[domain].learned_nothing):
                raise ValueError(
                    f"The experts of {owner!r} and {domain!r} hold the same numbers, so one expert is listed twice. "
                    "Give each domain its own file."
                )

    @classmethod
    def load(
        cls,
        experts: Mapping[str, Path | str] | Path | str,
        dispatch: Path | str | None = None,
        centroids: Path | str | None = None,
    ) -> ExpertPool:
        """Read a pool from domain -> expert file, training run's or LoRA's folder, or from one folder of *.safetensors.

        In a folder a LoRA is a folder of PEFT, whose name is its domain. Each other expert has the domain it was saved
        with, the order is alphabetical, and the expert of the domain `dispatch` becomes the pool's dispatch expert,
        centroids.safetensors its centroids.

        Raises:
            FileNotFoundError: a file or the folder is not there.
            ValueError: a file is no expert, or the experts cannot be in one pool.
        """
        chooser = None if dispatch is None else _multipliers_of(read_expert(DISPATCH, dispatch))
        vectors = None if centroids is None else Centroids.load(centroids)
        if isinstance(experts, Mapping):
            return cls({domain: read_expert(domain, path) for domain, path in experts.items()}, chooser, vectors)
        folder = located(experts)
        found = read_folder(folder)
        if vectors is None and (folder / CENTROIDS_FILE).is_file():
            vectors = Centroids.load(folder)
        lone = found.pop(DISPATCH, None)
        if lone is not None and chooser is not None:
            raise ValueError(f"{experts} holds a dispatch expert, and dispatch={dispatch} is another. Remove one.")
        if not found:
            raise ValueError(f"{experts} holds a dispatch expert alone. Add an expert of at least one domain.")
        return cls(found, chooser if lone is None else _multipliers_of(lone), vectors)

    @property
    def domains(self) -> tuple[str, ...]:
        """The K domains, in the order of a mixture's mixing weights."""
        return tuple(self.experts)

    @cached_property
    def svf(self) -> dict[str, Expert]:
        """The experts that have multipliers of singular values."""
        return {domain: one for domain, one in self.experts.items() if isinstance(one, Expert)}

    @cached_property
    def loras(self) -> dict[str, LoraExpert]:
        """The experts that are LoRAs."""
        return {domain: one for domain, one in self.experts.items() if isinstance(one, LoraExpert)}

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The M adapted matrices in the order of the columns of (K, M) mixing weights: by `natural_order`."""
        return tuple(sorted(next(iter(self.svf.values())).scales, key=natural_order))

    @cached_property
    def identity(self) -> str:
        """A hash, 16 hex digits, of the domains and their experts' scales; order and dispatch expert do not count."""
        return hashlib.sha256(repr(sorted(self._digests.items())).encode()).hexdigest()[:16]

    def multipliers(self, domain: str) -> Mapping[str, Tensor]:
        """The z of one expert, module -> (R,); a LoRA's are 1."""
        if (one := self.svf.get(domain)) is not None:
            return one.scales
        return {module: torch.ones_like(z) for module, z in next(iter(self.svf.values())).scales.items()}

    def with_expert(self, domain: str, expert: Expert | LoraExpert) -> ExpertPool:
        """A copy of the pool with an expert appended, or replaced where the domain exists.

        Raises:
            ValueError: the expert cannot be mixed with the others.
        """
        return replace(self, experts={**self.experts, domain: expert})

    def check(self, adapter: SVF, *, source: str, transfer: bool = False) -> None:
        """Raise ValueError unless the experts scale exactly the matrices of `adapter` in the model from `source`.

        LoRAs are made known to it, so that it can apply the states of mixtures. `transfer` accepts experts of another
        model whose modules and sizes fit.
        """
        values = adapter.singular_values
        shapes = {module: len(s) for module, s in values.items()}
        fingerprint = fingerprint_of(values, adapter.frobenius_norms)
        chooser = {} if self.dispatch is None else {DISPATCH: self.dispatch}
        for domain, expert in {**self.experts, **chooser}.items():
            try:
                if isinstance(expert, LoraExpert):
                    expert.check_base(source, transfer=transfer)
                    expert.attach(adapter)
                    continue
                expert.check(base_model=source, fingerprint=fingerprint, shapes=shapes, transfer=transfer)
            except ValueError as error:
                raise ValueError(f"The expert of {domain!r} does not fit: {error}") from error
        left = sorted(shapes.keys() - set(self.modules), key=natural_order)
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
        """The effective multipliers of one mixture: module -> z' (R,), fp32.

        Raises:
            ValueError: the mixture is for another number of experts or matrices.
        """
        return {module: stacked[0] for module, stacked in self.scales([mixture]).items()}

    def scales(self, mixtures: Sequence[Mixture]) -> dict[str, Tensor]:
        """The effective multipliers of D mixtures: module -> z' (D, R), fp32.

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
        return self._mixed(torch.where(is_delta, 1.0, weights.sum(dim=1)), weights)

    def scales_of(self, weights: Tensor) -> dict[str, Tensor]:
        """`scales` of the mixtures by the rule delta with mixing weights (D, K, M or 1), differentiable in them."""
        full = weights.expand(-1, len(self.experts), len(self.modules))
        return self._mixed(torch.ones(len(weights), len(self.modules)), full)

    def _mixed(self, origins: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Module -> c + Σ_k α_k (z_k - 1) of origins c (D, M) and mixing weights α (D, K, M); LoRAs' keys -> 1 + α."""
        mixed = {
            module: torch.addmm(origin[:, None], weight, self._deltas[module])
            for module, origin, weight in zip(
                self.modules, origins.float().unbind(1), weights.float().permute(2, 0, 1).contiguous(), strict=True
            )
        }
        column = {module: number for number, module in enumerate(self.modules)}
        for domain, lora in self.loras.items():
            for module, key in lora.keys().items():
                mixed[key] = 1.0 + weights[:, self.domains.index(domain), column[module], None].float()
        return mixed

    @cached_property
    def _deltas(self) -> dict[str, Tensor]:
        """Module -> z - 1 of the K experts (K, R), fp32; near 0, fp32 resolves what it would round off near 1."""
        scales = [self.multipliers(domain) for domain in self.domains]
        return {module: torch.stack([one[module] for one in scales]) - 1.0 for module in self.modules}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {domain: e.digest if isinstance(e, LoraExpert) else _digest(e) for domain, e in self.experts.items()}


def _multipliers_of(expert: Expert | LoraExpert) -> Expert:
    if isinstance(expert, LoraExpert):
        raise ValueError("The dispatch expert is a LoRA, and strategies apply multipliers alone. Give an SVF expert.")
    return expert


def _digest(expert: Expert) -> str:
    digest = hashlib.sha256()
    for module in sorted(expert.scales):
        digest.update(f"{module} {len(expert.scales[module])};".encode())
        digest.update(expert.scales[module].detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
