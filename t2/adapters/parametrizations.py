"""Parametrizations of z: from the trained parameter to the multiplier of each singular value.

    direct            z = 1 + delta, delta starting at 0                                  (paper §3.1)
    sigmoid_nuclear   m = sigmoid(p),  z = m * sum(s) / sum(s * m)                        (the authors' code)

The second keeps the nuclear norm of W, so a uniform rescaling of m does nothing; p starts at 0.1 + 0.01 N(0, 1), hence
z near 1. In both, weight decay leads to z = 1, the base model. Source: SakanaAI/self-adaptive-llms at 03a41ae,
`policy/base.py:19-50` and `utils.py:100-115`; the paper mentions neither the sigmoid nor the renormalization.

Numbers of `direct` may be shared, within a matrix and between matrices (`Tied`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from t2.adapters.spectrum import Spectrum
from t2.run.messages import check_choice

NUCLEAR_NORM_TOLERANCE = 1e-5  # relative change of the norm, by rounding, up to which a z is loaded


class Direct(nn.Module):
    """z = 1 + delta with the parameter delta, initialized to 0.

    The parameter is the change and not z, so that weight decay draws it to the base model, and so that steps far below
    the spacing of fp32 at 1 (1.2e-7) add up.
    """

    def __init__(self, singular_values: Tensor) -> None:
        """Initialize delta to 0 for singular values (R,), or (E, R) of E matrices."""
        super().__init__()
        self.delta = nn.Parameter(torch.zeros_like(singular_values))

    def forward(self) -> Tensor:
        """The effective multiplier z (R,)."""
        return 1.0 + self.delta

    def check(self, z: Tensor) -> None:
        """Accept any z (R,)."""

    @torch.no_grad()
    def set_effective(self, z: Tensor) -> None:
        """Set the parameter such that the multiplier is z (R,): exactly from 0.5 on, to 6e-8 below."""
        self.delta.copy_(z.to(self.delta) - 1.0)


class SigmoidNuclear(nn.Module):
    """z = m * sum(s) / sum(s * m) with m = sigmoid(p), which keeps the nuclear norm of W."""

    def __init__(self, singular_values: Tensor, *, seed: int, init_mean: float = 0.1, init_std: float = 0.01) -> None:
        """Draw p (R,), or (E, R) of E matrices, from N(init_mean, init_std²), as the authors' code does."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(singular_values.shape, generator=generator, dtype=singular_values.dtype)
        self.p = nn.Parameter((init_mean + init_std * noise).to(singular_values.device))
        s = singular_values.detach()
        s = torch.where(s.sum(-1, keepdim=True) > 0, s, torch.ones_like(s))  # of a matrix of zeros, any z gives zeros
        self.register_buffer("s", s.clone(), persistent=False)
        self.s: Tensor
        self.init_mean = init_mean

    def forward(self) -> Tensor:
        """The effective multiplier z (R,), or (E, R)."""
        m = torch.sigmoid(self.p)
        return m * (self.s.sum(-1, keepdim=True) / (self.s * m).sum(-1, keepdim=True))

    @torch.no_grad()
    def check(self, z: Tensor) -> None:
        """Check that some p gives z (R,).

        Raises:
            ValueError: z is not positive, or it changes the nuclear norm, which this map cannot.
        """
        z = z.to(self.p)
        if not bool((z > 0).all()):
            raise ValueError("sigmoid_nuclear can only hold positive multipliers; use parametrization=direct.")
        ratios = ((self.s * z).sum(-1) / self.s.sum(-1)).flatten()
        ratio = float(ratios[(ratios - 1.0).abs().argmax()])
        if not math.isclose(ratio, 1.0, rel_tol=NUCLEAR_NORM_TOLERANCE):
            raise ValueError(
                f"This z changes a matrix's nuclear norm by a factor {ratio:.6f}; sigmoid_nuclear keeps it at 1. "
                "Use parametrization=direct for this expert."
            )

    @torch.no_grad()
    def set_effective(self, z: Tensor) -> None:
        """Set p so that the effective multiplier is z (R,), with max(m) = min(0.99, sigmoid(init_mean) max(z)).

        Raises:
            ValueError: as for `check`.
        """
        self.check(z)
        z = z.to(self.p)
        start = torch.sigmoid(torch.tensor(self.init_mean))
        m = z * torch.minimum(start, 0.99 / z.amax(-1, keepdim=True))
        self.p.copy_(torch.logit(m))


class Tied(nn.Module):
    """Multipliers (k,) of one matrix that read a shorter vector (g,), which other matrices may read, too.

    Those of the E matrices of one parameter, (E, k), read a vector each, (E, g), or all of them the same (`copies`).
    """

    def __init__(self, vector: Direct, group: Tensor, copies: int | None = None) -> None:
        """Read number group[i] of `vector` for multiplier i; group (k,). `copies` is E where all read one vector."""
        super().__init__()
        self.vector, self.copies = vector, copies
        self.register_buffer("group", group, persistent=False)
        self.group: Tensor

    def forward(self) -> Tensor:
        """The effective multiplier z (k,), or (E, k); its gradient reaches each number as a sum over the group."""
        numbers: Tensor = self.vector()
        return self._full(numbers.to(self.group.device))  # matrices on several GPUs may share a vector

    def numbers(self, z: Tensor) -> Tensor:
        """The multiplier of each group (g,), or (E, g), out of z (k,), or (E, k): that of its first member."""
        group = self.group.to(z.device)
        first = torch.searchsorted(group, torch.arange(int(group[-1]) + 1, device=z.device))
        return (z if self.copies is None else z[0])[..., first]

    def check(self, z: Tensor) -> None:
        """Raise ValueError unless z (k,), or (E, k), has one value for each group."""
        if not torch.equal(self._full(self.numbers(z)), z):
            raise ValueError(
                "This z has different multipliers within a group, and this adapter has one number for a group. Set "
                "adapter.groups=null for this expert."
                if self.copies is None
                else "This z has different multipliers for experts that share a vector in this adapter. Set "
                "adapter.tie=none for this expert."
            )

    def set_effective(self, z: Tensor) -> None:
        """Set the vector such that the multiplier is z (k,), or (E, k), which has passed `check`."""
        self.vector.set_effective(self.numbers(z))

    def _full(self, numbers: Tensor) -> Tensor:
        z = numbers[..., self.group.to(numbers.device)]
        return z if self.copies is None else z.expand(self.copies, -1)


Parametrization = Direct | SigmoidNuclear | Tied
PARAMETRIZATIONS = ("direct", "sigmoid_nuclear")


def make_parametrization(name: str, singular_values: Tensor, *, seed: int) -> Direct | SigmoidNuclear:
    """Build the named parametrization for the singular values (R,) of one matrix.

    Raises:
        ValueError: `name` is none of PARAMETRIZATIONS.
    """
    check_choice("adapter.parametrization", name, PARAMETRIZATIONS)
    return Direct(singular_values) if name == "direct" else SigmoidNuclear(singular_values, seed=seed)


def learned_vector(
    vectors: nn.ModuleDict, module: str, s: Tensor, spectrum: Spectrum, *, parametrization: str, seed: int
) -> Parametrization:
    """The parametrization of a module's learned singular values s (k,), whose numbers are in `vectors`.

    They are added, unless a module that it shares them with has done so. For E matrices in one parameter s is (E, k),
    and so are the multipliers; with tie=modules and tie=all, all of them read one vector.
    """
    length = s.shape[-1] if spectrum.groups is None else spectrum.groups
    stacked, one_for_all = s.ndim == 2, spectrum.tie in ("modules", "all")
    key = spectrum.vector_key(module, length).replace(".", "/")  # a ModuleDict key may not hold a dot
    key += f"/{len(s)}" if stacked and spectrum.tie == "layers" else ""  # blocks may have different numbers of experts
    if key not in vectors:
        first = (s[0] if stacked and one_for_all else s)[..., :length]
        vectors[key] = make_parametrization(parametrization, first, seed=seed)
    vector = vectors[key]
    if spectrum.groups is None and spectrum.tie == "none":
        assert isinstance(vector, Direct | SigmoidNuclear), "it was made above"
        return vector
    assert isinstance(vector, Direct), "SVF refuses others for shared numbers"
    copies = len(s) if stacked and one_for_all else None
    return Tied(vector, spectrum.group_of(s.shape[-1]).to(s.device), copies)


def check_shared(wanted: Mapping[str, tuple[Parametrization, Tensor]]) -> None:
    """Raise ValueError unless matrices that share a vector want the same z: module -> (its parametrization, z (k,))."""
    owners: dict[int, tuple[str, Tensor]] = {}
    for module, (parametrization, z) in wanted.items():
        if isinstance(parametrization, Tied):
            numbers = parametrization.numbers(z)
            owner, first = owners.setdefault(id(parametrization.vector), (module, numbers))
            if not torch.equal(first, numbers.to(first)):
                raise ValueError(
                    f"{owner} and {module} share a vector in this adapter, and this state has different multipliers "
                    "for them. Set adapter.tie=none for this expert."
                )
