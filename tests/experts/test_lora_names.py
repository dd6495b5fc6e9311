"""LoRAs of vision-language models in a pool: their matrices have the names that experts give them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_lora import save_lora
from tiny_models import adapt, adapted, logits, random_state
from tiny_pool import make_expert

from t2.experts.export_lora import export_lora, truncate
from t2.experts.lora_expert import CONFIG_FILE, WEIGHTS_FILE, LoraExpert
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.tiny import tiny_llava


def with_old_names(folder: Path) -> None:
    """As a LoRA was saved when transformers had the text model, whole, within the other."""
    new, old = "model.language_model.", "language_model.model."
    weights = {name.replace(new, old): one for name, one in load_file(folder / WEIGHTS_FILE).items()}
    save_file(weights, folder / WEIGHTS_FILE)
    config = folder / CONFIG_FILE
    config.write_text(config.read_text().replace(new, old))


@pytest.mark.parametrize("old", [False, True])
def test_the_lora_of_a_vision_language_model_joins(old: bool, tmp_path: Path) -> None:
    """The one that t2 itself exports, and one under the names of before."""
    lm = tiny_llava()
    svf = adapt(lm)
    state = random_state(svf, spread=0.1)
    export_lora(lm, svf, state, tmp_path / "lora", truncated=truncate(svf, state, None), applied={})
    if old:
        with_old_names(tmp_path / "lora")
    lora = LoraExpert.load(tmp_path / "lora", "lora")
    assert lora.changes.keys() == svf.sizes.keys()
    pool = ExpertPool({"svf": make_expert(1, svf.singular_values, base_model=lm.source), "lora": lora})
    pool.check(svf, source=lm.source)
    with svf.merged(state):
        wanted = logits(lm)
    with svf.merged(pool.state(Mixture.of(0, 1))):
        torch.testing.assert_close(logits(lm), wanted, atol=2e-4, rtol=1e-4)
    with svf.per_example(pool.scales([Mixture.of(0, 1)] * len(wanted))):
        torch.testing.assert_close(logits(lm), wanted, atol=2e-4, rtol=1e-4)


def test_changes_of_a_vision_encoder_are_refused(tmp_path: Path) -> None:
    lm, svf = adapted()
    lora = LoraExpert.load(save_lora(tmp_path), "lora")
    name = "model.vision_tower.encoder.layers.0.self_attn.q_proj"
    seeing = replace(lora, changes={name: replace(next(iter(lora.changes.values())), module=name)})
    with pytest.raises(ValueError, match=rf"does not scale: {name}\. Train .* or a LoRA without them"):
        ExpertPool({"svf": make_expert(1, svf.singular_values, base_model=lm.source), "lora": seeing})
