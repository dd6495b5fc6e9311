"""Parametrizations of z: from the trained parameter to the multiplier of each singular value.

    direct            z = 1 + delta, delta starting at 0                                  (paper §3.1)
    sigmoid_nuclear   m = sigmoid(p),  z = m * sum(s) / sum(s * m)                        (the authors' code)

The second keeps the nuclear norm of W, so a uniform rescaling of m does nothing; p starts at 0.1 + 0.01 N(0, 1), hence
z near 1. In both, weight decay leads to z = 1, the base model. Source: SakanaAI/self-adaptive-llms at 03a41ae,
`policy/base.py:19-50` and `utils.py:100-115`; the paper mentions neither the sigmoid nor the renormalization.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from t2.run.messages import check_choice

NUCLEAR_NORM_TOLERANCE = 1e-3  # relative change of the norm up to which a z is still loaded


class Direct(nn.Module):
    """z = 1 + delta with the parameter delta, initialized to 0.

    The parameter is the change and not z, so that weight decay draws it to the base model, and so that steps far below
    the spacing of fp32 at 1 (1.2e-7) add up.
    """

    def __init__(self, singular_values: Tensor) -> None:
        """Initialize delta to 0 for singular values (R,)."""
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
        """Draw p (R,) from N(init_mean, init_std²), as the authors' code does."""
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
        """Check that some p gives z (R,).

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
        """Set p so that the effective multiplier is z (R,), with max(m) = min(0.99, sigmoid(init_mean) max(z)).

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
    """Build the named parametrization for the singular values (R,) of one matrix.

    Raises:
        ValueError: `name` is none of PARAMETRIZATIONS.
    """
    check_choice("adapter.parametrization", name, PARAMETRIZATIONS)
    return Direct(singular_values) if name == "direct" else SigmoidNuclear(singular_values, seed=seed)
