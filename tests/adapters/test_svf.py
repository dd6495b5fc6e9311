"""SVF: three modes of one function, gradients of z alone, and a base model that stays what it was."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from t2.adapters.parametrizations import PARAMETRIZATIONS
from t2.adapters.svf import SVF
from t2.adapters.svf_linear import SVFLinear
from t2.models.language_model import LanguageModel
from t2.models.tiny import ARCHITECTURES, tiny_model

each_architecture = pytest.mark.parametrize("architecture", list(ARCHITECTURES))
IDS = torch.randint(256, (3, 10), generator=torch.Generator().manual_seed(0))

original = functools.cache(tiny_model)


def adapted(architecture: str = "llama", **settings) -> tuple[LanguageModel, SVF]:
    lm = copy.deepcopy(original(architecture))
    svf = SVF(cache=False, progress=False, **settings)
    svf.inject(lm.model, lm.source)
    return lm, svf


def random_state(svf: SVF, seed: int = 0, spread: float = 0.3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(s.shape, generator=generator) for name, s in svf.singular_values.items()}
    return {name: (1 + spread * values).abs() for name, values in noise.items()}


def move(svf: SVF, spread: float) -> None:
    """Take a random step with the raw parameters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for vector in svf.trainable():
            vector.add_(spread * torch.randn(vector.shape, generator=generator))


def logits(lm: LanguageModel, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return lm.model(input_ids=ids).logits


# z = 1 is the base model


@each_architecture
def test_factored_at_one_is_the_base(architecture):
    lm, _ = adapted(architecture)
    torch.testing.assert_close(logits(lm), logits(original(architecture)), rtol=0, atol=5e-3)


@each_architecture
@pytest.mark.parametrize("mode", [SVF.merged, SVF.disabled], ids=["merged", "disabled"])
def test_merged_at_one_and_disabled_are_the_base_bit_for_bit(architecture, mode):
    lm, svf = adapted(architecture)
    with mode(svf):
        assert torch.equal(logits(lm), logits(original(architecture)))


@each_architecture
def test_disabled_is_the_base_bit_for_bit_whatever_z_is(architecture):
    lm, svf = adapted(architecture)
    svf.load(random_state(svf))
    assert (logits(lm) - logits(original(architecture))).abs().max() > 0.1
    with svf.disabled():
        assert torch.equal(logits(lm), logits(original(architecture)))


@each_architecture
def test_bf16_disabled_and_merged_at_one_are_the_base_bit_for_bit(architecture):
    lm = tiny_model(architecture, dtype="bfloat16")
    expected = logits(lm)
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    for mode in (svf.disabled(), svf.merged()):
        with mode:
            assert torch.equal(logits(lm), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_injection_and_merging_at_one_keep_every_bit_of_the_weights(architecture, dtype):
    lm = tiny_model(architecture, dtype=dtype)
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    assert all(torch.equal(weight, before[name]) for name, weight in svf.merged_weights())
    for name, layer in svf.layers.items():
        assert torch.equal(layer.base.weight, before[f"{name}.weight"])


# One function


@each_architecture
def test_factored_is_merged(architecture):
    lm, svf = adapted(architecture)
    svf.load(random_state(svf))
    factored = logits(lm)
    with svf.merged():
        torch.testing.assert_close(factored, logits(lm), rtol=1e-3, atol=5e-3)


@each_architecture
def test_each_row_wears_its_own_z(architecture):
    lm, svf = adapted(architecture)
    states = [random_state(svf, seed) for seed in range(2)]
    states.append({name: torch.ones_like(s) for name, s in svf.singular_values.items()})  # the base among them
    with svf.per_example({name: torch.stack([state[name] for state in states]) for name in svf.layers}):
        together = logits(lm)
    for row, state in enumerate(states):
        svf.load(state)
        with svf.merged():
            alone = logits(lm, IDS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=5e-3)


# Training


@each_architecture
def test_only_z_gets_gradients(architecture):
    lm, svf = adapted(architecture)
    lm.model(input_ids=IDS).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in svf.trainable())
    learned = {id(p) for p in svf.trainable()}
    rest = [p for p in lm.model.parameters() if id(p) not in learned]
    assert len(rest) >= len(learned)
    assert all(p.grad is None and not p.requires_grad for p in rest)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_a_checkpoint_holds_the_vectors_alone(parametrization):
    _, svf = adapted(parametrization=parametrization)
    held = sum(tensor.numel() for tensor in svf.state_dict().values())
    assert held == sum(p.numel() for p in svf.trainable()) == sum(s.numel() for s in svf.singular_values.values())


def test_merged_builds_no_graph():
    lm, svf = adapted()
    with svf.merged():
        assert not lm.model(input_ids=IDS).logits.requires_grad


# State


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_state_travels_to_a_fresh_adapter(parametrization):
    lm, svf = adapted(parametrization=parametrization)
    move(svf, 0.1)
    other_lm, other = adapted(parametrization=parametrization, seed=1)
    other.load(svf.state())
    for name, z in svf.state().items():
        torch.testing.assert_close(other.state()[name], z, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits(other_lm), logits(lm), rtol=1e-4, atol=1e-3)


def test_state_of_the_authors_map_means_the_same_to_the_papers():
    lm, svf = adapted(parametrization="sigmoid_nuclear")
    move(svf, 0.5)
    other_lm, other = adapted(parametrization="direct")
    other.load(svf.state())
    torch.testing.assert_close(logits(other_lm), logits(lm), rtol=1e-4, atol=1e-3)


def test_state_is_a_detached_fp32_copy():
    _, svf = adapted()
    state = svf.state()
    for z in state.values():
        z.zero_()
    assert all(z.dtype == torch.float32 and not z.requires_grad for z in state.values())
    assert all(bool((z == 1).all()) for z in svf.state().values())


def test_matrices_that_a_state_leaves_out_go_back_to_one():
    _, svf = adapted()
    svf.load(random_state(svf))
    first = next(iter(svf.layers))
    svf.load({first: torch.full_like(svf.singular_values[first], 2.0)})
    assert {name for name, z in svf.state().items() if not bool((z == 1).all())} == {first}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, z: {name + "x": z}, "No adapted matrix is called"),
        (lambda name, z: {name: z[:-1]}, r"got z of shape \(\d+,\), expected"),
        (lambda name, z: {name: z[None]}, r"got z of shape \(1, \d+\), expected"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    _, svf = adapted()
    svf.load(random_state(svf))
    before = svf.state()
    *_, (name, z) = before.items()
    with pytest.raises(ValueError, match=message):
        svf.load({next(iter(before)): torch.zeros_like(next(iter(before.values()))), **change(name, z)})
    assert all(torch.equal(svf.state()[key], value) for key, value in before.items())


def test_a_state_that_changes_the_nuclear_norm_is_refused_by_the_map_that_keeps_it():
    _, svf = adapted(parametrization="sigmoid_nuclear")
    with pytest.raises(ValueError, match=r"nuclear norm.*parametrization=direct"):
        svf.load({name: 1.1 * torch.ones_like(s) for name, s in svf.singular_values.items()})


def test_a_state_whose_last_matrix_is_refused_changes_none():
    _, svf = adapted(parametrization="sigmoid_nuclear")
    before = svf.state()
    keeps = {name: torch.ones_like(z) for name, z in before.items()}
    last = list(svf.layers)[-1]
    with pytest.raises(ValueError, match="nuclear norm"):
        svf.load(keeps | {last: 2 * keeps[last]})
    assert all(torch.equal(z, before[name]) for name, z in svf.state().items())


@pytest.mark.parametrize("layer", range(2))
def test_sigmoid_nuclear_keeps_the_nuclear_norm_of_every_matrix(layer):
    _, svf = adapted(parametrization="sigmoid_nuclear", layers=[layer])
    move(svf, 1.0)
    for name, weight in svf.merged_weights():
        before = original("llama").model.get_parameter(name)
        assert not torch.allclose(weight, before, atol=1e-2)
        norms = [torch.linalg.matrix_norm(w.double(), "nuc") for w in (weight, before)]
        torch.testing.assert_close(*norms, rtol=1e-5, atol=0)


# Export


@each_architecture
def test_merged_weights_fit_the_base_model_and_give_the_adapted_one(architecture):
    lm, svf = adapted(architecture)
    svf.load(random_state(svf))
    fresh = copy.deepcopy(original(architecture))
    weights = dict(svf.merged_weights())
    assert set(weights) <= set(fresh.model.state_dict())
    assert len(weights) == len(svf.layers)
    missing, unexpected = fresh.model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not set(missing) & set(weights)
    torch.testing.assert_close(logits(fresh), logits(lm), rtol=1e-3, atol=5e-3)


# Contexts


def modes(svf: SVF) -> dict[str, Callable]:
    scales = {name: torch.stack([z] * len(IDS)) for name, z in random_state(svf, seed=9).items()}
    return {"merged": svf.merged, "disabled": svf.disabled, "per_example": lambda: svf.per_example(scales)}


@pytest.mark.parametrize("inner", ["merged", "disabled", "per_example"])
@pytest.mark.parametrize("outer", ["merged", "disabled", "per_example"])
def test_contexts_nest(outer, inner):
    lm, svf = adapted()
    svf.load(random_state(svf))
    worn, outside = modes(svf), logits(lm)
    with worn[outer]():
        expected = logits(lm)
        with worn[inner]():
            logits(lm)
        assert torch.equal(logits(lm), expected)
    assert torch.equal(logits(lm), outside)


@pytest.mark.parametrize("mode", ["merged", "disabled", "per_example"])
def test_contexts_restore_after_an_exception(mode):
    lm, svf = adapted()
    svf.load(random_state(svf))
    outside = logits(lm)
    with pytest.raises(KeyboardInterrupt), modes(svf)[mode]():
        raise KeyboardInterrupt
    assert torch.equal(logits(lm), outside)
    assert all(layer.merged_weight is None and layer.example_scales is None for layer in svf.layers.values())


def test_a_failure_while_merging_leaves_nothing_behind(monkeypatch):
    _, svf = adapted()
    *_, last = svf.layers.values()

    def out_of_memory(z):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(last, "compose", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError), svf.merged():
        pass
    assert all(layer.merged_weight is None for layer in svf.layers.values())
    assert svf.mode.name == "factored"


def test_rows_of_another_batch_size_are_refused():
    lm, svf = adapted()
    scales = {name: torch.ones(1, len(s)) for name, s in svf.singular_values.items()}  # would broadcast
    with svf.per_example(scales), pytest.raises(AssertionError, match="scales of 1 examples, batch"):
        logits(lm)


def test_rows_want_every_matrix():
    _, svf = adapted()
    scales = {name: torch.ones(3, len(s)) for name, s in svf.singular_values.items()}
    gone = next(iter(scales))
    del scales[gone]
    with pytest.raises(ValueError, match=f"differing: {gone}"), svf.per_example(scales):
        pass


# Injection


@pytest.mark.parametrize("layers", [None, [1]], ids=["same layers", "other layers"])
def test_a_second_adapter_is_refused_and_changes_nothing(layers):
    lm, _ = adapted(layers=[0] if layers else None)
    before = logits(lm)
    with pytest.raises(ValueError, match=r"has an adapter already \(at model\.layers\.0"):
        SVF(layers=layers, cache=False).inject(lm.model, lm.source)
    assert torch.equal(logits(lm), before)


def test_an_unknown_map_is_an_error_before_any_model_is_seen():
    with pytest.raises(ValueError, match="Did you mean 'direct'"):
        SVF(parametrization="direkt")


def test_only_the_chosen_matrices_are_wrapped():
    lm, svf = adapted(modules=["q_proj", "mlp"], layers=[-1])
    wrapped = {name for name, module in lm.model.named_modules() if isinstance(module, SVFLinear)}
    names = ("self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert wrapped == set(svf.layers) == set(svf.state()) == {f"model.layers.1.{name}" for name in names}


def test_injection_keeps_its_decompositions_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2_CACHE", str(tmp_path))
    states = []
    for _ in range(2):
        lm = copy.deepcopy(original("llama"))
        SVF(progress=False).inject(lm.model, "org/name")
        states.append(logits(lm))
        monkeypatch.setattr(torch.linalg, "svd", None)  # the second time nothing may be decomposed
    assert torch.equal(*states)
    assert len(list((tmp_path / "svd" / "org--name").glob("*.safetensors"))) == 14


@pytest.mark.parametrize(
    "source", ["pypi:llm-a/llm_a/model.Q4.gguf", "/models/model.Q4.gguf", "/models/x/", "org/x@main", "tiny:llama"]
)
def test_caches_stay_inside_their_folder(tmp_path, monkeypatch, source):
    monkeypatch.setenv("T2_CACHE", str(tmp_path))
    lm = copy.deepcopy(original("llama"))
    SVF("q_proj", layers=[0], progress=False).inject(lm.model, source)
    (written,) = tmp_path.rglob("*.safetensors")
    assert written.parent.parent == tmp_path / "svd"


def test_singular_values_are_those_of_the_base():
    _, svf = adapted("gpt2")
    for name, s in svf.singular_values.items():
        weight = original("gpt2").model.get_submodule(name).weight
        torch.testing.assert_close(s, torch.linalg.svdvals(weight), rtol=1e-4, atol=1e-5)
        assert s.device.type == "cpu"
