"""What an engine composes from z: bit for bit the trainer's weights, from a checkpoint that is compared first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from tiny_models import adapted, original, random_state
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy.vllm_compose import Composer, Specification, specification_of
from t2.policy.vllm_weights import complete_weights

CPU = torch.device("cpu")


def checkpoint(architecture: str) -> Iterator[tuple[str, Tensor]]:
    """What a folder of the model holds: fp32, names as they are, and the head twice where it is tied."""
    model = original(architecture).model
    yield from model.named_parameters()
    yield "lm_head.copy", model.get_output_embeddings().weight


def sent(svf: SVF, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: svf.learned[name].of(z) for name, z in state.items()}


def learnable(svf: SVF) -> dict[str, Tensor]:
    """A random state that is 1 where the adapter learns nothing."""
    return {name: torch.where(svf.learnable()[name], z, 1.0) for name, z in random_state(svf, 3).items()}


def pair(architecture: str, dtype: torch.dtype, **settings: object) -> tuple[LanguageModel, SVF, Composer]:
    lm, svf = adapted(architecture, dtype=dtype, **settings)
    spec = Specification.from_json(specification_of(lm, svf).to_json())
    return lm, svf, Composer(spec, checkpoint(architecture), CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("qwen2", {}),
        ("qwen2", {"modules": ["q_proj"]}),
        ("gpt2", {}),
        ("llama", {"spectrum": "top", "rank": 3}),
        ("llama", {"spectrum": "random", "rank": 8, "seed": 4}),
    ],
    ids=["all", "fused", "transposed", "top", "random"],
)
def test_it_composes_what_the_trainer_would_send(
    architecture: str, settings: dict[str, object], dtype: torch.dtype
) -> None:
    lm, svf, composer = pair(architecture, dtype, **settings)
    state = learnable(svf)
    expected = dict(complete_weights(lm, set(svf.layers), svf, state))
    found = dict(composer.compose(sent(svf, state)))
    assert found.keys() == expected.keys()
    thin = "rank" in settings
    for name, weight in found.items():
        assert weight.dtype == dtype
        # A thin factor of the trainer is filled up with zeros, which are added up in another order.
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6 if thin and dtype == torch.float32 else 0)
    assert any(
        not torch.equal(weight, dict(complete_weights(lm, set(svf.layers), None))[n]) for n, weight in found.items()
    )


def test_without_a_state_it_is_the_base() -> None:
    lm, svf, composer = pair("qwen2", torch.float32)
    base = dict(complete_weights(lm, set(svf.layers), None))
    assert all(torch.equal(weight, base[name]) for name, weight in composer.compose({}))
    one = next(iter(svf.layers))  # a matrix that the state leaves out has z = 1
    changed = {name for name, weight in composer.compose({one: torch.full((svf.sizes[one],), 1.5)})
               if not torch.equal(weight, base[name])}  # fmt: skip
    assert changed == {f"{svf.paths[one]}.weight"}


def test_what_is_fused_comes_together() -> None:
    """vLLM then never holds more than one fused matrix that is not complete."""
    _, _, composer = pair("qwen2", torch.float32)
    parents = [name.rpartition(".")[0].rpartition(".")[0] for name in composer.weights]
    assert sum(a != b for a, b in pairwise(parents)) == len(set(parents)) - 1


@pytest.mark.parametrize("part", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_other_weights_are_refused(part: str) -> None:
    """One that is adapted, and one that is not and that no singular value knows of."""
    lm, svf = adapted("llama", modules=["up_proj"])
    other = [(name, weight + 1e-3 if name == part else weight) for name, weight in checkpoint("llama")]
    with pytest.raises(ValueError, match=f"1 of 21 weights differ and 0 are missing, {part} for one"):
        Composer(specification_of(lm, svf), other, CPU)


def test_a_missing_matrix_is_refused() -> None:
    lm, svf = adapted("llama", modules=["up_proj"])
    rest = [(name, weight) for name, weight in checkpoint("llama") if "1.mlp.up_proj" not in name]
    with pytest.raises(ValueError, match=r"1 are missing, model.layers.1.mlp.up_proj.weight is missing"):
        Composer(specification_of(lm, svf), rest, CPU)


def test_the_digest_tells_adapters_apart() -> None:
    specs = [specification_of(*adapted("llama", **settings)) for settings in ({}, {"spectrum": "top", "rank": 3}, {})]
    assert specs[0] == specs[2] != specs[1]
    assert specs[0].digest == specs[2].digest != specs[1].digest
