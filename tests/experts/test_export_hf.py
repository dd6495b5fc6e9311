"""The folder of a merged model: plain transformers computes the adapter's logits with it, and says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import IDS, adapt, adapted, logits, random_state
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from t2.experts.export_hf import export_hf
from t2.models.tiny import tiny_llava
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

CASES = {
    "llama": ("llama", torch.float32),
    "bf16": ("llama", torch.bfloat16),
    "tied": ("llama_bias", torch.float32),
    "tied bf16": ("llama_bias", torch.bfloat16),
    "Conv1D": ("gpt2", torch.float32),
}


def load(folder: Path) -> Any:
    """The model of a folder, with rotary frequencies in its dtype as the tiny models have them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model.to(model.dtype)


@pytest.mark.parametrize("case", CASES)
def test_plain_transformers_computes_the_merged_logits(case: str, tmp_path: Path) -> None:
    """Catches W in place of W', Conv1D not transposed, an untied head, another dtype, and a lost tokenizer."""
    architecture, dtype = CASES[case]
    lm, svf = adapted(architecture, dtype=dtype)
    state = random_state(svf)
    with svf.merged(state):
        expected = logits(lm)
    base = logits(lm)
    answer = HFGenerator(lm, svf).with_state(state).generate([Example("What is 3 + 4?")], Sampling(max_new_tokens=8))
    prompt = lm.encode(Example("What is 3 + 4?"))
    export_hf(lm, svf, state, tmp_path / "out", applied={})
    model = load(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.dtype == dtype
    with torch.no_grad():
        got = model(input_ids=IDS).logits
    tolerance = 1e-5 * (architecture == "gpt2")  # of Conv1D the product is in another order
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
    assert not torch.allclose(expected, base, atol=0.1)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "What is 3 + 4?"}], add_generation_prompt=True)
    assert chat["input_ids"] == prompt
    said = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)[0, len(prompt) :]
    assert tuple(said.tolist()) == answer[0][0].token_ids


def test_tied_weights_are_written_once_and_everything_else_is_as_it_was(tmp_path: Path) -> None:
    lm, svf = adapted("llama_bias", modules="mlp")
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items() if ".mlp." not in name}
    export_hf(lm, svf, random_state(svf), tmp_path / "out", applied={})
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in written
    assert {name for name in before if name != "lm_head.weight"} <= written.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in before.items() if name in written)
    assert not any("factor" in name or "delta" in name for name in written)


def test_shards_have_the_size_and_matrices_left_out_are_the_base(tmp_path: Path) -> None:
    lm, svf = adapted("llama", layers=[0])
    with svf.disabled():
        base = logits(lm)
    export_hf(lm, svf, {}, tmp_path / "out", applied={}, max_shard_size="20KB")
    shards = list((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 3
    assert max(path.stat().st_size for path in shards) < 40_000  # the embeddings are one tensor
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.numel() * 4 for p in lm.model.parameters())
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "out")(IDS).logits, base)


def test_a_partial_spectrum_is_merged(tmp_path: Path) -> None:
    lm, svf = adapted("llama", dtype=torch.bfloat16, spectrum="top", rank=3)
    state = {name: torch.where(svf.learnable()[name], z, 1.0) for name, z in random_state(svf, spread=0.5).items()}
    with svf.merged(state):
        expected = logits(lm)
    export_hf(lm, svf, state, tmp_path / "out", applied={})
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "out")(IDS).logits, expected)


def test_a_vision_language_model_has_its_processor(tmp_path: Path) -> None:
    lm = tiny_llava()
    svf = adapt(lm)
    state = random_state(svf)
    with svf.merged(state), torch.no_grad():
        expected = lm.model(input_ids=IDS).logits
    export_hf(lm, svf, state, tmp_path / "out", applied={})
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, expected)
    assert AutoProcessor.from_pretrained(tmp_path / "out").image_token == "<image>"


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, svf = adapted("llama")
    with pytest.raises(ValueError, match="No adapted matrix is called"):
        export_hf(lm, svf, {"no.such": torch.ones(3)}, tmp_path / "out", applied={})
    assert list(tmp_path.iterdir()) == []
    assert len(svf.layers) == 14  # and the model is as it was
