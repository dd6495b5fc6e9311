"""A pool: what a mixture of experts is, and every set of experts that cannot be mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import IDS, adapted
from tiny_pool import SIZES, make_expert, per_matrix, singular_values
from torch import Tensor

from t2.experts.expert import Expert
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool

COLUMNS = ("layers.2.q", "layers.2.up", "layers.10.up")


# What a mixture is


@pytest.mark.parametrize(
    ("mixture", "closed_form"),
    [
        (Mixture.of(1.0, 1.0, 0.0), lambda math, code: 1 + (math - 1) + (code - 1)),
        (Mixture.of(0.0, 1.0, 0.0), lambda math, code: code),
        (Mixture.of(0.5, 0.0, 0.0, rule="paper"), lambda math, code: 0.5 * math),
    ],
    ids=["two added", "one alone", "the paper's rule does not start at the base"],
)
def test_mixtures_have_a_closed_form(pool, mixture, closed_form):
    for module, z in pool.state(mixture).items():
        math, code = (pool.experts[domain].scales[module].double() for domain in ("math", "code"))
        torch.testing.assert_close(z.double(), closed_form(math, code), rtol=0, atol=6e-8)


def test_weights_of_zero_are_the_base_bit_for_bit(pool):
    assert all(torch.equal(z, torch.ones(SIZES[module])) for module, z in pool.state(Mixture.base(3)).items())


@given(weights=st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3), rule=st.sampled_from(["delta", "paper"]))
def test_mixtures_agree_with_their_formula_in_float64(weights, rule):
    pool = ExpertPool({"math": make_expert(1), "code": make_expert(2), "logic": make_expert(3)})
    state = pool.state(Mixture.of(*weights, rule=rule))
    for module in SIZES:
        z = [expert.scales[module].double() for expert in pool.experts.values()]
        if rule == "delta":
            expected = 1 + sum(weight * (z_k - 1) for weight, z_k in zip(weights, z, strict=True))
        else:
            expected = sum(weight * z_k for weight, z_k in zip(weights, z, strict=True))
        torch.testing.assert_close(state[module].double(), expected, rtol=1e-6, atol=1e-6)


def test_the_paper_rule_with_shares_that_sum_to_1_is_delta(pool):
    shares = (1 / 3, 1 / 3, 1 / 3)
    delta, paper = (pool.state(Mixture.of(*shares, rule=rule)) for rule in ("delta", "paper"))
    assert all(torch.equal(delta[module], paper[module]) for module in SIZES)


def test_columns_of_weights_are_the_modules_with_blocks_by_number(pool):
    assert pool.modules == COLUMNS
    state = pool.state(Mixture(((0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))))
    assert torch.equal(state["layers.2.up"], torch.ones(6))
    torch.testing.assert_close(state["layers.10.up"], pool.experts["math"].scales["layers.10.up"], rtol=0, atol=6e-8)


def test_columns_do_not_depend_on_the_order_in_a_file(pool, tmp_path):
    paths = {domain: expert.save(tmp_path / f"{domain}.safetensors") for domain, expert in pool.experts.items()}
    read = ExpertPool.load(paths)
    mixture = per_matrix(0)
    assert all(torch.equal(read.state(mixture)[module], z) for module, z in pool.state(mixture).items())


def test_scales_are_the_states_of_their_mixtures(pool):
    mixtures = [Mixture.of(1.0, 0.0, 2.0), per_matrix(4), Mixture.of(0.2, 0.3, 0.4, rule="paper"), per_matrix(5)]
    scales = pool.scales(mixtures)
    for index, mixture in enumerate(mixtures):
        for module, z in pool.state(mixture).items():
            torch.testing.assert_close(scales[module][index], z, rtol=3e-7, atol=0)  # two steps of fp32
    assert {module: (tuple(rows.shape), rows.dtype) for module, rows in scales.items()} == {
        module: ((4, size), torch.float32) for module, size in SIZES.items()
    }


def test_a_model_computes_the_same_merged_and_per_example():
    lm, svf = adapted()
    experts = {name: make_expert(seed, svf.singular_values, base_model=lm.source) for seed, name in enumerate("ab")}
    pool = ExpertPool(experts)
    pool.check(svf, source=lm.source)
    mixtures = [Mixture.of(20.0, -10.0), Mixture.base(2), Mixture.of(0.3, 0.7, rule="paper")]
    with torch.no_grad():
        with svf.per_example(pool.scales(mixtures)):
            together = lm.model(input_ids=IDS[:1].expand(3, -1)).logits
        for index, mixture in enumerate(mixtures):
            with svf.merged(pool.state(mixture)):
                alone = lm.model(input_ids=IDS[:1]).logits[0]
            torch.testing.assert_close(together[index], alone, rtol=1e-3, atol=1e-3)
    assert (together[0] - together[1]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("mixtures", "message"),
    [
        ([Mixture.base(3), Mixture.of(1.0, 1.0)], "Got a mixture of 2 experts, expected 3: math, code, logic"),
        ([Mixture.base(3), Mixture.of(1.0, 1.0, 1.0, 1.0)], "Got a mixture of 4 experts, expected 3"),
        ([Mixture.base(3), Mixture(((1.0, 1.0),) * 3)], "2 mixing weights per expert, expected 1, or 3"),
        ([], "no mixtures"),
    ],
)
def test_no_mixtures_or_one_of_another_size_are_refused(pool, mixtures, message):
    with pytest.raises(ValueError, match=message):
        pool.scales(mixtures)


# Adding and telling apart


def test_an_expert_more_is_the_last_and_the_pool_stays_as_it_was(pool):
    experts = dict(pool.experts)
    grown = ExpertPool(experts).with_expert("vision", make_expert(4))
    assert grown.domains == ("math", "code", "logic", "vision")
    copied = ExpertPool(experts)
    experts["vision"] = make_expert(4)
    assert copied.domains == pool.domains == ("math", "code", "logic")


def test_a_replaced_expert_keeps_its_index_and_is_applied(pool):
    expert = make_expert(9)
    pool.state(Mixture.base(3))  # so that anything cached is cached
    changed = pool.with_expert("code", expert)
    assert changed.domains == pool.domains
    torch.testing.assert_close(changed.state(Mixture.of(0, 1, 0))["layers.2.q"], expert.scales["layers.2.q"])


def test_identity_tells_numbers_and_domains_apart_but_not_orders(pool):
    reordered = ExpertPool(dict(reversed(pool.experts.items())), dispatch=make_expert(7))
    assert reordered.identity == pool.identity
    assert pool.with_expert("code", make_expert(9)).identity != pool.identity
    swapped = ExpertPool({"math": make_expert(2), "code": make_expert(1), "logic": make_expert(3)})
    assert swapped.identity != pool.identity


# Experts that cannot be in one pool


def test_an_expert_listed_twice_is_refused():
    again = make_expert(1, domain="reasoning", step=7)
    with pytest.raises(ValueError, match=r"'math' and 'reasoning' hold the same numbers.*listed twice"):
        ExpertPool({"math": make_expert(1), "code": make_expert(2), "reasoning": again})


def test_two_experts_that_learned_nothing_are_no_expert_listed_twice():
    one = make_expert(1)
    nothing = Expert({module: torch.ones_like(z) for module, z in one.scales.items()}, one.metadata)
    assert nothing.learned_nothing
    assert not one.learned_nothing
    assert len(ExpertPool({"a": nothing, "b": nothing, "c": one}).domains) == 3


def test_experts_that_differ_in_one_number_are_two():
    expert = make_expert(1)
    other = Expert({module: z.clone() for module, z in expert.scales.items()}, expert.metadata)
    other.scales["layers.10.up"][3] += 1e-6
    assert len(ExpertPool({"a": expert, "b": other}).domains) == 2


@pytest.mark.parametrize("domain", ["other", "Other", "dispatch", "", " math", "math/algebra"])
def test_a_domain_that_is_no_label_is_refused(pool, domain):
    with pytest.raises(ValueError, match=f"{domain!r}"):
        pool.with_expert(domain, make_expert(4))
    with pytest.raises(ValueError, match=f"{domain!r}"):
        ExpertPool({domain: make_expert(4)})


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (make_expert(4, base_model="org/large"), "are of different models: org/small and org/large"),
        (make_expert(4, singular_values(seed=1)), ".*Their weights differ"),
        (
            make_expert(4, {name: s for name, s in singular_values().items() if name != "layers.2.q"}),
            r"scale different modules, 1 in all: layers\.2\.q is in that of 'math' alone",
        ),
        (
            Expert({**make_expert(4).scales, "layers.2.q": torch.ones(5)}, make_expert(4).metadata),
            r"have 3 and 5 values for layers\.2\.q",
        ),
    ],
    ids=["model", "revision", "modules", "sizes"],
)
def test_experts_of_other_models_are_refused(pool, expert, message):
    with pytest.raises(ValueError, match=f"'math' and 'far' {message}"):
        pool.with_expert("far", expert)


def test_a_dispatch_expert_of_another_model_is_refused(pool):
    with pytest.raises(ValueError, match=r"'math' and 'dispatch' are of different models"):
        replace(pool, dispatch=make_expert(4, base_model="org/large"))


# Against a model


class Adapted:
    """An adapter as far as a pool reads it."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.singular_values, self.frobenius_norms = values, dict[str, float]()

    def load(self, state: Mapping[str, Tensor]) -> None:
        raise AssertionError("checking a pool applies nothing")


def test_a_pool_fits_its_model(pool):
    replace(pool, dispatch=make_expert(7)).check(Adapted(singular_values()), source="org/small")


def test_another_model_is_refused_with_the_domain_unless_transferred(pool):
    adapter = Adapted(singular_values())
    with pytest.raises(ValueError, match=r"expert of 'math' does not fit.*org/large.*transfer=true"):
        pool.check(adapter, source="org/large")
    pool.check(adapter, source="org/large", transfer=True)


def test_a_dispatch_expert_is_checked_too(pool):
    chooser = make_expert(7, singular_values({**SIZES, "layers.2.q": 3, "layers.3.q": 3}))
    with pytest.raises(ValueError, match=r"expert of 'dispatch' does not fit.*layers\.3\.q"):
        replace(pool, dispatch=chooser).check(Adapted(singular_values()), source="org/small")


def test_an_adapter_of_more_matrices_than_the_experts_is_refused(pool):
    adapter = Adapted(singular_values({**SIZES, "layers.11.up": 4}))
    with pytest.raises(ValueError, match=r"wraps 4 matrices.*for 3 of them; layers\.11\.up.*adapter\.modules"):
        pool.check(adapter, source="org/small")
