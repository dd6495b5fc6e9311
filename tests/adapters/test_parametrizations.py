"""Maps from parameters to z: closed forms in float64, and what each map cannot hold."""

import pytest
import torch

from t2.adapters.parametrizations import PARAMETRIZATIONS, SigmoidNuclear, make_parametrization

SINGULAR_VALUES = torch.tensor([5.0, 3.0, 1.0, 0.1], dtype=torch.float64)


def nuclear(**settings) -> SigmoidNuclear:
    return SigmoidNuclear(SINGULAR_VALUES, seed=0, **settings)


def keeping_the_norm(z: torch.Tensor) -> torch.Tensor:
    return z * (SINGULAR_VALUES.sum() / (SINGULAR_VALUES * z).sum())


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_one_fp32_parameter_per_singular_value(name):
    parameters = list(make_parametrization(name, SINGULAR_VALUES.float(), seed=0).parameters())
    assert [(p.shape, p.dtype) for p in parameters] == [(SINGULAR_VALUES.shape, torch.float32)]


def test_direct_starts_at_the_base_model():
    assert torch.equal(make_parametrization("direct", SINGULAR_VALUES, seed=0)(), torch.ones(4).double())


def test_a_matrix_of_zeros_has_finite_multipliers_and_gradients():
    both = torch.stack([SINGULAR_VALUES, torch.zeros(4).double()])  # two matrices of one parameter
    vector = SigmoidNuclear(both, seed=0)
    z = vector()
    z.sum().backward()
    assert torch.isfinite(z).all()
    assert torch.isfinite(vector.p.grad).all()
    torch.testing.assert_close((z[0] * SINGULAR_VALUES).sum(), SINGULAR_VALUES.sum())
    vector.set_effective(z.detach())
    torch.testing.assert_close(vector(), z)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_weight_decay_leads_to_the_base_model(name):
    vector = make_parametrization(name, SINGULAR_VALUES, seed=0)
    vector.set_effective(keeping_the_norm(torch.tensor([1.5, 0.2, 1.0, 4.0], dtype=torch.float64)))
    optimizer = torch.optim.AdamW(vector.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(100):
        for parameter in vector.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    torch.testing.assert_close(vector(), torch.ones(4).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_setting_z_gives_z_and_keeps_the_parameter_an_optimizer_holds(name):
    vector = make_parametrization(name, SINGULAR_VALUES, seed=0)
    (before,) = vector.parameters()
    z = keeping_the_norm(torch.tensor([1.5, 0.2, 1.0, 40.0], dtype=torch.float64))
    vector.set_effective(z)
    torch.testing.assert_close(vector(), z, rtol=1e-12, atol=1e-12)
    (after,) = vector.parameters()
    assert after is before
    assert after.requires_grad


def test_sigmoid_nuclear_is_the_authors_formula():
    vector = nuclear()
    with torch.no_grad():
        vector.p.copy_(torch.tensor([0.3, -2.0, 1.0, 4.0]))
    m = 1 / (1 + torch.exp(-vector.p))
    expected = SINGULAR_VALUES * m * SINGULAR_VALUES.sum() / (SINGULAR_VALUES * m).sum()
    torch.testing.assert_close(SINGULAR_VALUES * vector(), expected, rtol=1e-14, atol=0)


def test_sigmoid_nuclear_keeps_the_nuclear_norm_of_the_matrix():
    generator = torch.Generator().manual_seed(1)
    U, _ = torch.linalg.qr(torch.randn(6, 4, generator=generator, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(5, 4, generator=generator, dtype=torch.float64))
    vector = nuclear()
    with torch.no_grad():
        vector.p.copy_(3 * torch.randn(4, generator=generator))
    changed = U @ torch.diag(SINGULAR_VALUES * vector()) @ V.T
    norm = torch.linalg.matrix_norm(changed, "nuc")
    torch.testing.assert_close(norm, SINGULAR_VALUES.sum(), rtol=1e-12, atol=0)
    assert (vector() - 1).abs().max() > 0.1


def test_sigmoid_nuclear_starts_as_the_authors_code_does_near_one():
    vector = SigmoidNuclear(torch.ones(20_000), seed=0)
    assert vector.p.mean().item() == pytest.approx(0.1, abs=5e-4)
    assert vector.p.std().item() == pytest.approx(0.01, rel=0.05)
    assert (nuclear()() - 1).abs().max().item() < 0.02


def test_sigmoid_nuclear_start_depends_on_its_seed_alone():
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), nuclear().p
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first, nuclear().p)
    assert not torch.equal(first, SigmoidNuclear(SINGULAR_VALUES, seed=1).p)


def test_uniform_rescaling_of_m_is_the_dead_direction():
    vector = nuclear()
    with torch.no_grad():
        vector.p.copy_(torch.logit(0.5 * torch.sigmoid(torch.tensor([0.1, 0.2, -0.3, 0.4]))))
    halved = vector().detach().clone()
    with torch.no_grad():
        vector.p.copy_(torch.tensor([0.1, 0.2, -0.3, 0.4]))
    torch.testing.assert_close(vector(), halved, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [1.01, 0.99, 2.0, 1.0005])
def test_sigmoid_nuclear_refuses_a_z_that_changes_the_norm_and_keeps_the_old_one(factor):
    vector = nuclear()
    before = vector().detach().clone()
    with pytest.raises(ValueError, match=rf"factor {factor:.6f}.*parametrization=direct"):
        vector.set_effective(torch.full_like(SINGULAR_VALUES, factor))
    assert torch.equal(vector(), before)


def test_sigmoid_nuclear_loads_what_it_made_in_fp32_and_changes_it_by_no_more_than_rounding():
    s = torch.logspace(1, -3, 4096)
    one, other = (SigmoidNuclear(s, seed=seed, init_std=1.0) for seed in (1, 2))
    other.set_effective(one().detach())
    torch.testing.assert_close(other(), one(), rtol=2e-5, atol=0)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_sigmoid_nuclear_refuses_what_no_sigmoid_reaches(bad):
    z = torch.ones_like(SINGULAR_VALUES)
    z[2] = bad
    with pytest.raises(ValueError, match="only hold positive"):
        nuclear().set_effective(z)


def test_gradient_of_sigmoid_nuclear():
    vector = nuclear()

    def z(p: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(vector, {"p": p}, ())

    assert torch.autograd.gradcheck(z, (vector.p.detach().clone().requires_grad_(),))


@pytest.mark.parametrize(("name", "near"), [("dirct", "direct"), ("sigmoid_nuclar", "sigmoid_nuclear")])
def test_unknown_map_names_the_near_miss(name, near):
    with pytest.raises(ValueError, match=rf"'{name}'; allowed: direct, sigmoid_nuclear\. Did you mean '{near}'"):
        make_parametrization(name, SINGULAR_VALUES, seed=0)
