"""How much is adapted, and what is said of the rest."""

from __future__ import annotations

import logging

import pytest
from tiny_models import adapt, tiny
from zoo_models import tiny_architecture

from t2.adapters.peft import PeftAdapter
from t2.adapters.random_basis import RandomBasis
from t2.experts.trained import origin


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(one.levelno, one.getMessage()) for one in caplog.records if "covers" in one.getMessage()]


def test_a_dense_model_is_covered_whole(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    svf = adapt(tiny("llama_bias"))
    assert svf.coverage is not None
    assert (svf.coverage.share, svf.coverage.left) == (1.0, {})
    assert told(caplog) == [
        (logging.INFO, f"The adapter covers 100 % (of {svf.coverage.total} numbers in the decoder blocks).")
    ]


def test_what_is_left_is_named_with_its_reason() -> None:
    coverage = adapt(tiny_architecture("qwen3_moe")).coverage
    assert coverage is not None
    assert list(coverage.left) == ["mlp.gate.weight (router)"]
    assert str(coverage).startswith("98.6 %; left: mlp.gate.weight (router) 1.4 %")
    some = adapt(tiny_architecture("qwen3_moe"), modules="attention", layers=[0]).coverage
    assert some is not None
    assert 0.1 < some.share < 0.2
    assert "mlp.experts.down_proj (a parameter of Qwen3MoeExperts)" in some.left
    assert "self_attn.q_proj.weight (not chosen)" in some.left  # of the other block


@pytest.mark.parametrize("adapter", [PeftAdapter("lora"), RandomBasis(4, cache=False, progress=False)])
def test_adapters_without_3d_parameters_say_what_they_leave_of_a_mixture(
    adapter: PeftAdapter | RandomBasis, caplog: pytest.LogCaptureFixture
) -> None:
    lm = tiny_architecture("mixtral")
    adapter.inject(lm.model, lm.source)
    ((level, text),) = told(caplog)
    assert level == logging.WARNING
    assert "left: mlp.experts.gate_up_proj (a parameter of MixtralExperts) 5" in text
    assert adapter.coverage is not None
    assert origin(adapter)["coverage"] == str(adapter.coverage)


def test_little_coverage_is_a_warning_where_everything_was_asked_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2.adapters.targets.fused_parameters", lambda block: iter(()))
    adapt(tiny_architecture("mixtral"))
    ((level, text),) = told(caplog)
    assert level == logging.WARNING
    assert "left: mlp.experts.gate_up_proj (a parameter of MixtralExperts) 5" in text
    caplog.clear()
    adapt(tiny_architecture("mixtral"), modules="attention")
    assert not [level for level, _ in told(caplog) if level >= logging.WARNING]  # that is what was asked for
