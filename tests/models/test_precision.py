"""The precision policy: what it settles, what it refuses before a model is loaded, and the error for NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from t2.models import precision
from t2.models.precision import NonFiniteError, Precision, is_half, parse_dtype


@pytest.mark.parametrize(
    ("base_model", "generation", "merges", "text"),
    [
        ({}, {}, True, "model float32; z and logits float32; rollouts merged in float32"),
        ({"dtype": "bfloat16"}, {"mode": "merged"}, True, "rollouts merged in bfloat16"),
        ({"dtype": "bfloat16"}, {}, False, "rollouts factored in bfloat16"),
        ({"dtype": "float16"}, {}, True, "rollouts merged in float16"),
        ({"dtype": "bfloat16"}, {"mode": "factored"}, False, "rollouts factored in bfloat16"),
        ({"dtype": "float32"}, {"mode": "factored", "dtype": None}, False, "rollouts factored in float32"),
        ({"dtype": "float32"}, {"mode": "auto", "dtype": "bfloat16"}, True, "rollouts merged in bfloat16"),
        ({"dtype": "bfloat16"}, {"engine": {"dtype": "auto"}}, True, "rollouts merged in bfloat16"),
        ({"dtype": "float32"}, {"engine": {"dtype": "float16"}}, True, "rollouts merged in float16"),
    ],
)
def test_settings_make_one_policy(base_model: dict, generation: dict, merges: bool, text: str) -> None:
    found = Precision.of(base_model, generation, {"precision": "32-true"})
    assert found.merges is merges
    assert text in str(found)


@pytest.mark.parametrize(
    ("base_model", "generation", "multiplies", "expected"),
    [
        ({}, {"dtype": "auto"}, True, "bfloat16"),
        ({}, {"dtype": "auto"}, False, None),
        ({}, {"dtype": "auto", "mode": "factored"}, True, None),
        ({"dtype": "bfloat16"}, {"dtype": "auto"}, True, None),  # factored, as without
        ({"quantization": "int8"}, {"dtype": "auto"}, True, None),
    ],
)
def test_auto_rounds_merged_weights_of_float32_where_the_processor_multiplies_bfloat16(
    base_model: dict, generation: dict, multiplies: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: multiplies)
    found = Precision.of(base_model, generation)
    assert found.rollout_dtype == expected
    assert found.merges is Precision.of(base_model, generation | {"dtype": expected}).merges


def test_a_gpu_is_no_processor_that_multiplies_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "avx512_bf16": False})
    for gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert precision.multiplies_bfloat16() is not gpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # as on another architecture
    assert not precision.multiplies_bfloat16()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_model": {"dtype": "bf16"}}, "Did you mean 'bfloat16'"),
        ({"generation": {"dtype": "half"}}, "dtype is 'half'; allowed"),
        ({"generation": {"mode": "factord"}}, r"generation.mode is 'factord'.*Did you mean 'factored'"),
        ({"generation": {"mode": "factored", "dtype": "bfloat16"}}, "merges none; leave one of them out"),
        ({"trainer": {"precision": "bf16-mixed"}}, r"bf16-mixed, .*below 1.5e-3.*base_model.dtype=bfloat16"),
        ({"trainer": {"precision": "16-mixed"}}, "clipped as they are"),
        ({"trainer": {"precision": "bf16-true"}}, "frozen dataclass"),
        ({"trainer": {"precision": "16-true"}}, "frozen dataclass"),
        ({"trainer": {"precision": "64-true"}}, "allowed: 32-true"),
        ({"trainer": {"precision": 16}}, "trainer.precision is 16"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Precision.of(**({"base_model": {}, "generation": {}} | settings))


def test_dtypes_have_names_and_sixteen_bits_are_half() -> None:
    assert parse_dtype("float16") is torch.float16
    assert [is_half(parse_dtype(name)) for name in ("float32", "bfloat16", "float16")] == [False, True, True]


def test_the_error_names_the_place_and_is_one_of_arithmetic_and_of_values() -> None:
    error = NonFiniteError("The log-prob", float("nan"), prompt=3, completion=19, token=2, dtype=torch.float16)
    assert isinstance(error, ArithmeticError)
    assert isinstance(error, ValueError)  # so that the command line shows a message and no traceback
    assert (error.completion, error.token) == (19, 2)
    assert "The log-prob of token 2 in completion 19 (prompt 3) is nan" in str(error)
    assert "base_model.dtype=bfloat16" in str(error)
    moved = error.at(prompt=0, completion=1)
    assert (moved.prompt, moved.completion, moved.token) == (0, 1, 2)
    assert "token 2 in completion 1 (prompt 0) is nan" in str(moved)
    other = NonFiniteError("The log-prob", float("inf"), prompt=0, completion=0, token=0, dtype=torch.float32)
    assert "bfloat16" not in str(other)
