"""Maps from what is trained to the effective multiplier z of the singular values.

    direct            z = parameter, starting at 1                                        (paper §3.1)
    sigmoid_nuclear   m = sigmoid(p),  z = m * sum(s) / sum(s * m)                        (the authors' code)

The second keeps the nuclear norm of W, so a uniform rescaling of m does nothing; p starts at 0.1 + 0.01 N(0, 1), hence
z near 1. Source: SakanaAI/self-adaptive-llms at 03a41ae, `policy/base.py:19-50` and `utils.py:100-115`; the paper
mentions neither the sigmoid nor the renormalization.
"""

from __future__ import annotations

import difflib
import math

import torch
from torch import Tensor, nn

NUCLEAR_NORM_TOLERANCE = 1e-3  # relative; how far a z may be from keeping the norm and still be loaded


class Direct(nn.Module):
    """z is the parameter itself."""

    def __init__(self, singular_values: Tensor) -> None:
        """Start at z = 1."""
        super().__init__()
        self.z = nn.Parameter(torch.ones_like(singular_values))

    def forward(self) -> Tensor:
        """The effective multiplier z (R,)."""
        return self.z

    def check(self, z: Tensor) -> None:
        """Any z will do."""

    @torch.no_grad()
    def set_effective(self, z: Tensor) -> None:
        """Take z as it is."""
        self.z.copy_(z)


class SigmoidNuclear(nn.Module):
    """z = m * sum(s) / sum(s * m) with m = sigmoid(p)."""

    def __init__(self, singular_values: Tensor, *, seed: int, init_mean: float = 0.1, init_std: float = 0.01) -> None:
        """Start at p ~ N(init_mean, init_std²), as the authors' code does."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(singular_values.shape, generator=generator, dtype=singular_values.dtype)
        self.p = nn.Parameter((init_mean + init_std * noise).to(singular_values.device))
        self.register_buffer("s", singular_values.detach().clone(), persistent=False)
        self.s: Tensor
        self.init_mean = init_mean

    def forward(self) -> Tensor:
        """The effective multiplier z (R,)."""
        m = torch.sigmoid(self.p)
        return m * (self.s.sum() / (self.s * m).sum())

    @torch.no_grad()
    def check(self, z: Tensor) -> None:
        """Say whether there is a p for z.

        Raises:
            ValueError: z is not positive, or it changes the nuclear norm, which this map cannot.
        """
        z = z.to(self.p)
        if not bool((z > 0).all()):
            raise ValueError("sigmoid_nuclear can only hold positive multipliers; use parametrization=direct.")
        ratio = float((self.s * z).sum() / self.s.sum())
        if not math.isclose(ratio, 1.0, rel_tol=NUCLEAR_NORM_TOLERANCE):
            raise ValueError(
                f"This z changes a matrix's nuclear norm by a factor {ratio:.4f}; sigmoid_nuclear keeps it at 1. "
                "Use parametrization=direct for this expert."
            )

    @torch.no_grad()
    def set_effective(self, z: Tensor) -> None:
        """Choose p with the largest m at most sigmoid(init_mean) unless that would saturate the smallest.

        Raises:
            ValueError: as for `check`.
        """
        self.check(z)
        z = z.to(self.p)
        start = torch.sigmoid(torch.tensor(self.init_mean))
        m = z * torch.minimum(start, 0.99 / z.max())
        self.p.copy_(torch.logit(m))


Parametrization = Direct | SigmoidNuclear
PARAMETRIZATIONS = ("direct", "sigmoid_nuclear")


def make_parametrization(name: str, singular_values: Tensor, *, seed: int) -> Parametrization:
    """Build the named map for one matrix's singular values (R,).

    Raises:
        ValueError: no such map.
    """
    if name == "direct":
        return Direct(singular_values)
    if name == "sigmoid_nuclear":
        return SigmoidNuclear(singular_values, seed=seed)
    near = difflib.get_close_matches(name, PARAMETRIZATIONS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Unknown parametrization {name!r}; allowed: {', '.join(PARAMETRIZATIONS)}.{hint}")
