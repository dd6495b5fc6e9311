"""A pool: what a mixture of experts is, and every set of experts that cannot be mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t2.adapters.svf import SVF
from t2.experts.expert import EXPERT_FILE, Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.tiny import tiny_model

SIZES = {"layers.10.up": 4, "layers.2.up": 6, "layers.2.q": 3}  # not in the order of the columns
COLUMNS = ("layers.2.q", "layers.2.up", "layers.10.up")


def singular_values(sizes: Mapping[str, int] = SIZES, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {module: torch.rand(size, generator=generator) + 0.5 for module, size in sizes.items()}


def make_expert(seed: int, values: Mapping[str, Tensor] | None = None, **changes: object) -> Expert:
    """As far from 1 as learned ones are, for a model with the given singular values."""
    values = values or singular_values()
    generator = torch.Generator().manual_seed(seed)
    scales = {module: 1 + 0.01 * torch.randn(len(s), generator=generator) for module, s in values.items()}
    metadata = ExpertMetadata(
        base_model="org/small",
        fingerprint=fingerprint_of(values),
        parametrization="direct",
        task="gcd",
        domain=f"domain_{seed}",
        description="",
        objective="RLOO",
        step=seed,
        t2_version="0.1.0",
    )
    return Expert(scales, replace(metadata, **changes))


@pytest.fixture
def pool() -> ExpertPool:
    return ExpertPool({"math": make_expert(1), "code": make_expert(2), "logic": make_expert(3)})


def per_matrix(seed: int, experts: int = 3, rule: str = "delta") -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    return Mixture(tuple(map(tuple, torch.randn(experts, len(SIZES), generator=generator).tolist())), rule)


# What a mixture is


def test_two_experts_added_have_the_closed_form(pool):
    state = pool.state(Mixture.of(1.0, 1.0, 0.0))
    for module in SIZES:
        a, b = (pool.experts[domain].scales[module].double() for domain in ("math", "code"))
        torch.testing.assert_close(state[module].double(), 1 + (a - 1) + (b - 1), rtol=0, atol=6e-8)


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


def test_weights_of_zero_are_the_base_bit_for_bit(pool):
    assert all(torch.equal(z, torch.ones(SIZES[module])) for module, z in pool.state(Mixture.base(3)).items())


def test_one_expert_alone_is_itself(pool):
    state = pool.state(Mixture.of(0.0, 1.0, 0.0))
    for module, z in pool.experts["code"].scales.items():
        torch.testing.assert_close(state[module], z, rtol=0, atol=6e-8)


def test_the_paper_rule_with_shares_that_sum_to_1_is_delta(pool):
    shares = (1 / 3, 1 / 3, 1 / 3)
    delta, paper = (pool.state(Mixture.of(*shares, rule=rule)) for rule in ("delta", "paper"))
    assert all(torch.equal(delta[module], paper[module]) for module in SIZES)


def test_the_paper_rule_does_not_start_at_the_base(pool):
    state = pool.state(Mixture.of(0.5, 0.0, 0.0, rule="paper"))
    torch.testing.assert_close(state["layers.2.q"], 0.5 * pool.experts["math"].scales["layers.2.q"])


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
            torch.testing.assert_close(scales[module][index], z, rtol=0, atol=1e-7)
    assert {module: (tuple(rows.shape), rows.dtype) for module, rows in scales.items()} == {
        module: ((4, size), torch.float32) for module, size in SIZES.items()
    }


def test_a_model_answers_the_same_merged_and_in_rows():
    lm = tiny_model()
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    values = svf.singular_values
    experts = {name: make_expert(seed, values, base_model=lm.source) for seed, name in enumerate(("a", "b"))}
    pool = ExpertPool(experts)
    pool.check(svf, source=lm.source)
    mixtures = [Mixture.of(20.0, -10.0), Mixture.base(2), Mixture.of(0.3, 0.7, rule="paper")]
    ids = torch.arange(5, 14).repeat(3, 1)
    with torch.no_grad():
        with svf.per_example(pool.scales(mixtures)):
            rows = lm.model(input_ids=ids).logits
        for index, mixture in enumerate(mixtures):
            with svf.merged(pool.state(mixture)):
                alone = lm.model(input_ids=ids[:1]).logits[0]
            torch.testing.assert_close(rows[index], alone, rtol=1e-3, atol=1e-3)
    assert (rows[0] - rows[1]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (Mixture.of(1.0, 1.0), "Got a mixture of 2 experts, expected 3: math, code, logic"),
        (Mixture.of(1.0, 1.0, 1.0, 1.0), "Got a mixture of 4 experts, expected 3"),
        (Mixture(((1.0, 1.0),) * 3), "2 mixing weights per expert, expected 1, or 3"),
    ],
)
def test_a_mixture_of_another_size_is_refused(pool, mixture, message):
    with pytest.raises(ValueError, match=message):
        pool.scales([Mixture.base(3), mixture])


def test_no_mixtures_are_an_error(pool):
    with pytest.raises(ValueError, match="no mixtures"):
        pool.scales([])


# Adding and telling apart


def test_an_expert_more_is_the_last(pool):
    grown = pool.with_expert("vision", make_expert(4))
    assert grown.domains == ("math", "code", "logic", "vision")
    assert pool.domains == ("math", "code", "logic")


def test_a_replaced_expert_keeps_its_place_and_is_worn(pool):
    expert = make_expert(9)
    pool.state(Mixture.base(3))  # so that anything cached is cached
    changed = pool.with_expert("code", expert)
    assert changed.domains == pool.domains
    torch.testing.assert_close(changed.state(Mixture.of(0, 1, 0))["layers.2.q"], expert.scales["layers.2.q"])


def test_a_pool_does_not_change_with_the_mapping_it_was_made_of():
    experts = {"math": make_expert(1)}
    pool = ExpertPool(experts)
    experts["code"] = make_expert(2)
    assert pool.domains == ("math",)


def test_identity_tells_numbers_and_domains_apart_but_not_orders(pool):
    reordered = ExpertPool(dict(reversed(pool.experts.items())), dispatch=make_expert(7))
    assert reordered.identity == pool.identity
    assert pool.with_expert("code", make_expert(9)).identity != pool.identity
    swapped = ExpertPool({"math": make_expert(2), "code": make_expert(1), "logic": make_expert(3)})
    assert swapped.identity != pool.identity


# Files


def save(folder: Path, name: str, expert: Expert) -> Path:
    return expert.save(folder / f"{name}.safetensors")


def test_a_pool_is_read_from_files_and_folders_of_runs(tmp_path):
    run = make_expert(2).save(tmp_path / "run" / EXPERT_FILE).parent
    pool = ExpertPool.load({"math": save(tmp_path, "a", make_expert(1)), "code": str(run)}, dispatch=run)
    assert pool.domains == ("math", "code")
    assert pool.dispatch is not None
    assert pool.dispatch.metadata.step == 2
    assert torch.equal(pool.experts["code"].scales["layers.2.q"], make_expert(2).scales["layers.2.q"])


def test_a_folder_is_a_pool_by_the_domains_of_its_files(tmp_path):
    save(tmp_path, "a", make_expert(1, domain="math"))
    save(tmp_path, "b", make_expert(2, domain="code"))
    save(tmp_path, "c", make_expert(3, domain="dispatch"))
    pool = ExpertPool.load(tmp_path)
    assert pool.domains == ("code", "math")
    assert pool.dispatch is not None
    assert pool.dispatch.metadata.step == 3


def test_a_missing_file_names_its_domain_and_a_near_file(tmp_path):
    save(tmp_path, "gcd", make_expert(1))
    with pytest.raises(FileNotFoundError, match=r"expert of 'code'.*gdc\.safetensors.*Did you mean 'gcd\.safetensors'"):
        ExpertPool.load({"math": tmp_path / "gcd.safetensors", "code": tmp_path / "gdc.safetensors"})


def test_a_damaged_file_names_its_domain(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04not an expert")
    with pytest.raises(ValueError, match=r"expert of 'code'.*pickle"):
        ExpertPool.load({"code": tmp_path / "bad.safetensors"})


def test_a_missing_folder_is_told_with_a_near_one(tmp_path):
    (tmp_path / "smollm2_135m").mkdir()
    with pytest.raises(FileNotFoundError, match=r"smolm2_135m\. Did you mean 'smollm2_135m'\?"):
        ExpertPool.load(tmp_path / "smolm2_135m")


def test_a_folder_without_experts_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.safetensors"):
        ExpertPool.load(tmp_path)


def test_a_folder_with_two_experts_of_one_domain_names_both_files(tmp_path):
    save(tmp_path, "old", make_expert(1, domain="math"))
    save(tmp_path, "new", make_expert(2, domain="math"))
    with pytest.raises(ValueError, match=r"two experts of the domain 'math', new\.safetensors and old\.safetensors"):
        ExpertPool.load(tmp_path)


def test_a_folder_with_a_dispatch_expert_alone_is_no_pool(tmp_path):
    save(tmp_path, "c", make_expert(3, domain="dispatch"))
    with pytest.raises(ValueError, match="dispatch expert alone"):
        ExpertPool.load(tmp_path)


def test_two_dispatch_experts_are_one_too_many(tmp_path):
    save(tmp_path, "a", make_expert(1))
    other = save(tmp_path, "c", make_expert(3, domain="dispatch"))
    with pytest.raises(ValueError, match=r"holds a dispatch expert, and dispatch=.* is another"):
        ExpertPool.load(tmp_path, dispatch=other)


# Experts that cannot be in one pool


def test_an_empty_pool_is_refused():
    with pytest.raises(ValueError, match="pool is empty"):
        ExpertPool.load({})


def test_an_expert_listed_twice_is_refused(tmp_path):
    path = save(tmp_path, "gsm8k", make_expert(1))
    again = save(tmp_path, "copy", make_expert(1, domain="reasoning", step=7))
    with pytest.raises(ValueError, match=r"'math' and 'reasoning' hold the same numbers.*listed twice"):
        ExpertPool.load({"math": path, "code": save(tmp_path, "mbpp", make_expert(2)), "reasoning": again})


def test_experts_that_differ_in_one_number_are_two(tmp_path):
    expert = make_expert(1)
    other = Expert({module: z.clone() for module, z in expert.scales.items()}, expert.metadata)
    other.scales["layers.10.up"][3] += 1e-6
    assert len(ExpertPool({"a": expert, "b": other}).domains) == 2


@pytest.mark.parametrize("domain", ["other", "Other", "dispatch", "", " math"])
def test_a_domain_that_is_no_label_is_refused(pool, domain):
    with pytest.raises(ValueError, match=f"{domain!r}"):
        pool.with_expert(domain, make_expert(4))
    with pytest.raises(ValueError, match=f"{domain!r}"):
        ExpertPool({domain: make_expert(4)})


def test_experts_of_other_models_are_refused(pool):
    with pytest.raises(ValueError, match=r"'math' and 'far' are of different models: org/small and org/large"):
        pool.with_expert("far", make_expert(4, base_model="org/large"))


def test_experts_of_another_revision_are_refused(pool):
    with pytest.raises(ValueError, match=r"'math' and 'far'.*Their weights differ"):
        pool.with_expert("far", make_expert(4, singular_values(seed=1)))


def test_a_dispatch_expert_of_another_model_is_refused(pool):
    with pytest.raises(ValueError, match=r"'math' and 'dispatch' are of different models"):
        replace(pool, dispatch=make_expert(4, base_model="org/large"))


def test_experts_of_other_modules_are_refused(pool):
    values = singular_values()
    del values["layers.2.q"]
    with pytest.raises(ValueError, match=r"different modules, 1 in all: layers\.2\.q is in that of 'math' alone"):
        pool.with_expert("far", make_expert(4, values))


def test_experts_of_other_sizes_are_refused(pool):
    expert = make_expert(4)
    scales = {**expert.scales, "layers.2.q": torch.ones(5)}
    with pytest.raises(ValueError, match=r"'math' and 'far' have 3 and 5 values for layers\.2\.q"):
        pool.with_expert("far", Expert(scales, expert.metadata))


# Against a model


class Worn:
    """An adapter as far as a pool looks at it."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.singular_values = values

    def load(self, state: Mapping[str, Tensor]) -> None:
        raise AssertionError("checking a pool wears nothing")


def test_a_pool_fits_its_model(pool):
    replace(pool, dispatch=make_expert(7)).check(Worn(singular_values()), source="org/small")


def test_another_model_is_refused_with_the_domain_unless_transferred(pool):
    adapter = Worn(singular_values())
    with pytest.raises(ValueError, match=r"expert of 'math' does not fit.*org/large.*transfer=true"):
        pool.check(adapter, source="org/large")
    pool.check(adapter, source="org/large", transfer=True)


def test_a_dispatch_expert_is_checked_too(pool):
    chooser = make_expert(7, singular_values({**SIZES, "layers.2.q": 3, "layers.3.q": 3}))
    with pytest.raises(ValueError, match=r"expert of 'dispatch' does not fit.*layers\.3\.q"):
        replace(pool, dispatch=chooser).check(Worn(singular_values()), source="org/small")


def test_an_adapter_of_more_matrices_than_the_experts_is_refused(pool):
    adapter = Worn(singular_values({**SIZES, "layers.11.up": 4}))
    with pytest.raises(ValueError, match=r"wraps 4 matrices.*for 3 of them; layers\.11\.up.*adapter\.modules"):
        pool.check(adapter, source="org/small")
