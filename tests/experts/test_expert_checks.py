"""Whether an expert fits a model: its own, another, and by transfer."""

import json

import pytest
import torch

from t2.experts.fingerprint import fingerprint_of
from tests.experts.expert_cases import SINGULAR_VALUES, make_expert

SHAPES = {name: len(s) for name, s in SINGULAR_VALUES.items()}


def check(base_model="org/small", values=SINGULAR_VALUES, transfer=False, **known) -> None:
    shapes = {name: len(s) for name, s in values.items()}
    found = {"fingerprint": fingerprint_of(values), "shapes": shapes} | known
    make_expert().check(base_model=base_model, transfer=transfer, **found)


def test_its_own_model_is_accepted_also_with_more_modules_and_another_with_transfer():
    check()
    check(values=SINGULAR_VALUES | {"layers.0.k_proj": torch.ones(4)})
    check("org/large", fingerprint=json.dumps({"x": 1.0}), transfer=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"values": SINGULAR_VALUES | {"layers.0.up_proj": torch.tensor([5.0, 4.02])}},
            r"weights differ.*layers\.0\.up_proj.*transfer=true",
        ),
        (
            {"base_model": "org/large", "values": {k: 2 * s for k, s in SINGULAR_VALUES.items()}},
            "trained for org/small; the loaded model is org/large",
        ),
        ({"base_model": "org/tuned"}, r"org/small.*org/tuned.*Their weights agree.*transfer=true"),
        ({"fingerprint": json.dumps({"x": 1.0})}, "share no module"),
    ],
    ids=["revision", "model", "source alone", "no shared module"],
)
def test_another_model_is_refused_without_transfer(model, message):
    with pytest.raises(ValueError, match=message):
        check(**model)


@pytest.mark.parametrize("transfer", [True, False])
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (SHAPES | {"layers.0.up_proj": 7}, r"layers\.0\.up_proj has 2 values, expected 7.*org/small.*org/b"),
        (
            {"layers.0.q_proj": 3, "layers.0.up_project": 2},
            r"1 of .* 2 modules.*up_proj .*Did you mean 'layers\.0\.up_project'\?",
        ),
    ],
    ids=["size", "module"],
)
def test_another_size_or_module_is_refused_with_transfer_too(shapes, message, transfer):
    with pytest.raises(ValueError, match=message):
        check("org/b", shapes=shapes, transfer=transfer)
