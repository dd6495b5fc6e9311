"""A model is read from its files part by part, and is then the model that is read at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import IDS, logits, tiny

from t2.models.checks import check_model
from t2.models.loading import load_model


def saved(folder: Path, architecture: str) -> str:
    """A tiny model in several files."""
    lm = tiny(architecture)
    lm.model.save_pretrained(folder, max_shard_size="30KB")
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("architecture", "blocks"), [("llama", "model.layers."), ("gemma2", "model.layers."), ("gpt2", "transformer.h.")]
)
def test_parts_make_the_whole(architecture: str, blocks: str, tmp_path: Path) -> None:
    """Ties, buffers that are computed, and end tokens are those of the model that is loaded at once."""
    source = saved(tmp_path, architecture)
    lm, whole = load_model(source, dtype="bfloat16", by_block=True), load_model(source, dtype="bfloat16")
    assert lm.unread is not None
    assert all(weight.is_meta for weight in lm.model.parameters())
    lm.unread.read(but=blocks)
    left = {name for name, weight in lm.model.named_parameters() if weight.is_meta}
    assert left - {"lm_head.weight"} == {name for name in lm.unread.files if name.startswith(blocks)}
    with pytest.raises(ValueError, match=rf"weights of the model are in no file, {blocks}0"):
        lm.unread.check_complete()
    for number in range(2):
        lm.unread.read(f"{blocks}{number}.")
    lm.unread.check_complete()
    check_model(lm)
    assert torch.equal(logits(lm, IDS), logits(whole, IDS))
    assert (lm.device, lm.dtype, lm.end_ids) == (whole.device, whole.dtype, whole.end_ids)
    assert dict(lm.model.named_parameters()).keys() == dict(whole.model.named_parameters()).keys()


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    source, settings = saved(tmp_path, "qwen2"), tmp_path / "config.json"
    named = json.loads(settings.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    settings.write_text(json.dumps(named))
    with pytest.raises(ValueError, match=r"is quantized \(gptq\), and trainer=fsdp shards dense weights"):
        load_model(source, by_block=True)


def test_names_and_shapes_of_another_model_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path, "qwen2")
    for path in tmp_path.glob("*.safetensors*"):
        path.unlink()
    weights = {name: weight.clone() for name, weight in tiny("qwen2").model.state_dict().items()}
    file = tmp_path / "model.safetensors"
    save_file({name.replace("up_proj", "w1"): weight for name, weight in weights.items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"4 names in the files .* are not those of Qwen2ForCausalLM.*trainer=ddp"):
        load_model(source, by_block=True)
    save_file(weights | {"model.norm.weight": torch.ones(3)}, file, {"format": "pt"})
    lm = load_model(source, by_block=True)
    assert lm.unread is not None
    with pytest.raises(ValueError, match=r"model.norm.weight has shape \(3,\) .* says \(32,\)"):
        lm.unread.read()
