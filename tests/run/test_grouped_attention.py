"""Keys and values are attended to in the heads that they have: the same logits, and gradients up to rounding."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny_models import tiny
from trivial_job import Script

from t2.models.language_model import LanguageModel
from t2.run.grouped_attention import FORCE_GQA, group_attention

HEADS: list[int] = []  # of the keys of each call


def forward(lm: LanguageModel, patch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, 6, V) of a padded batch, and their gradient in the keys' projection."""
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(query: torch.Tensor, key: torch.Tensor, *others: object, **settings: object) -> torch.Tensor:
        HEADS.append(key.shape[1])
        return attend(query, key, *others, **settings)

    with patch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
        mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
        logits = lm.model(input_ids=torch.arange(12).view(2, 6) + 3, attention_mask=mask).logits
    keys = lm.model.get_submodule("model.layers.0.self_attn.k_proj").weight
    (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[..., 5].sum(), [keys])
    return logits, gradient


@pytest.mark.skipif(torch.accelerator.is_available(), reason="transformers chooses where there is a GPU")
def test_the_same_numbers_from_heads_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORCE_GQA, raising=False)
    lm = tiny("llama")
    config = lm.model.config
    assert config.num_key_value_heads < config.num_attention_heads
    lm.model.get_submodule("model.layers.0.self_attn.k_proj").weight.requires_grad_()
    HEADS.clear()
    repeated = forward(lm, monkeypatch)
    assert set(HEADS) == {config.num_attention_heads}
    monkeypatch.setenv(FORCE_GQA, "")  # so that what is set now is taken back
    monkeypatch.delenv(FORCE_GQA)
    assert group_attention()
    HEADS.clear()
    grouped = forward(lm, monkeypatch)
    assert set(HEADS) == {config.num_key_value_heads}
    assert torch.equal(repeated[0], grouped[0])
    torch.testing.assert_close(repeated[1], grouped[1])


@pytest.mark.skipif(torch.accelerator.is_available(), reason="transformers chooses where there is a GPU")
def test_scripts_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FORCE_GQA, "")  # so that what is set now is taken back
    monkeypatch.delenv(FORCE_GQA)
    assert Script(tmp_path, monkeypatch)("number=0") == 0
    assert os.environ[FORCE_GQA] == "1"


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_setting_of_the_users_own_stays(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCE_GQA, value)
    assert not group_attention()
