"""The modes of a rollout: merged weights, or the factored mode that training computes in."""

from __future__ import annotations

import pytest
import torch
from tiny_models import adapted, original, random_state, tiny, token_ids

from t2.adapters.steering import Steering
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Example, Sampling

EXAMPLES = [Example(prompt="x" * n) for n in (3, 40, 11, 25)]
SAMPLED = Sampling(max_new_tokens=12, temperature=1.0, samples=3, seed=6)


def same(one: list[list[Completion]], other: list[list[Completion]]) -> None:
    assert token_ids(one) == token_ids(other)
    for group, others in zip(one, other, strict=True):
        for a, b in zip(group, others, strict=True):
            assert a.log_probs == pytest.approx(b.log_probs, abs=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("given", [False, True], ids=["learned", "a state"])
def test_factored_rollouts_are_merged_ones(architecture: str, given: bool) -> None:
    lm, svf = adapted(architecture, ends=True, spread=0.2)
    generators = [HFGenerator(lm, svf, mode=mode) for mode in ("merged", "factored")]
    if given:
        state = random_state(svf, 5)
        del state[next(iter(state))]  # where it says nothing, z is 1
        generators = [generator.with_state(state) for generator in generators]
    same(*(generator.generate(EXAMPLES, SAMPLED) for generator in generators))
    assert svf.mode.name == "factored"
    assert not svf.mode.per_example


@pytest.mark.parametrize("given", [False, True], ids=["learned", "a state"])
def test_factored_merges_nothing_and_a_base_is_the_base(monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    lm, svf = adapted(dtype=torch.bfloat16, ends=True, spread=0.2)
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)
    generator = HFGenerator(lm, svf)  # auto
    state = random_state(svf, 5) if given else svf.state()
    found = (generator.with_state(state) if given else generator).generate(EXAMPLES, SAMPLED)
    base = HFGenerator(tiny(dtype=torch.bfloat16, ends=True)).generate(EXAMPLES, SAMPLED)
    assert token_ids(found) != token_ids(base)
    assert generator.with_state({}).generate(EXAMPLES, SAMPLED) == base
    assert HFGenerator(lm, svf, weights="base").generate(EXAMPLES, SAMPLED) == base


@pytest.mark.parametrize(
    ("dtype", "mode", "rounded", "merges"),
    [
        (torch.float32, "auto", None, True),
        (torch.float32, "factored", None, False),
        (torch.float64, "auto", None, True),
        (torch.bfloat16, "auto", None, False),
        (torch.float16, "auto", None, True),
        (torch.float16, "factored", None, False),
        (torch.bfloat16, "merged", None, True),
        (torch.bfloat16, "auto", "bfloat16", True),
    ],
)
def test_auto_merges_where_that_keeps_what_z_has_learned(
    dtype: torch.dtype, mode: str, rounded: str | None, merges: bool
) -> None:
    lm, svf = adapted(dtype=dtype)
    assert HFGenerator(lm, svf, mode=mode, dtype=rounded).merges is merges  # type: ignore[arg-type]


@pytest.mark.parametrize("multiplies", [True, False])
def test_auto_rounds_what_is_merged(multiplies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2.models.precision.multiplies_bfloat16", lambda: multiplies)
    lm, svf = adapted(spread=0.1)
    assert HFGenerator(lm, svf, dtype="auto").dtype is (torch.bfloat16 if multiplies else None)
    assert HFGenerator(lm, dtype="auto").dtype is None  # nothing to merge
    other = tiny()
    steering = Steering()
    steering.inject(other.model, other.source)
    assert HFGenerator(other, steering, dtype="auto").dtype is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_small_z_is_felt_in_factored_rollouts(dtype: torch.dtype) -> None:
    """Log-probs at sampling are nearer to those of training than where W' is rounded."""
    lm, svf = adapted(dtype=dtype, spread=0.01)
    drift = []
    for mode in ("factored", "merged"):
        flat = [c for group in HFGenerator(lm, svf, mode=mode).generate(EXAMPLES, SAMPLED) for c in group]
        token = token_log_probs(lm, flat)
        drift.append(float((token.log_probs - token.sampled).abs().detach().mean()))
    assert drift[0] < 0.7 * drift[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_z_of_one_is_the_base_in_every_mode(dtype: torch.dtype) -> None:
    lm, svf = adapted(dtype=dtype)
    flat = [c for group in HFGenerator(lm, svf, weights="base").generate(EXAMPLES, SAMPLED) for c in group]
    with torch.no_grad():
        found = token_log_probs(lm, flat).log_probs
        with svf.disabled():
            base = token_log_probs(lm, flat).log_probs
        with svf.merged():
            merged = token_log_probs(lm, flat).log_probs
    assert torch.equal(merged, base)
    # float32 multiplies by the factors of W, half precision by W itself and nothing.
    tolerance = 1e-4 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, base, rtol=0, atol=tolerance)


def test_what_a_mode_cannot_do_is_refused() -> None:
    class MergingAdapter:
        def inject(self, model, source): ...
        def trainable(self): ...
        def state(self): ...
        def load(self, state): ...
        def disabled(self): ...
        def merged(self, state=None, *, dtype=None): ...
        def merged_weights(self, state=None): ...

    assert HFGenerator(tiny(dtype=torch.bfloat16), MergingAdapter()).merges
    for options, message in (
        ({"adapter": MergingAdapter(), "mode": "factored"}, "MergingAdapter has no factored mode"),
        ({"adapter": adapted()[1], "mode": "factord"}, "Did you mean 'factored'"),
        ({"adapter": adapted()[1], "mode": "factored", "dtype": "bfloat16"}, "merges none"),
    ):
        with pytest.raises(ValueError, match=message):
            HFGenerator(original(), **options)
