"""Sizes are read without the model, from wherever its configuration is; the table holds what is published."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from cost_model import SHAPES
from transformers import AutoConfig, LlamaForCausalLM

from t2.costs.configurations import configuration, known
from t2.costs.shapes import on_meta, shape_of
from t2.models.tiny import tiny_llava, tiny_model

# Billions of parameters, as the model cards and papers have them.
PUBLISHED = {
    "meta-llama/Llama-3.1-8B": 8.03, "meta-llama/Llama-3.1-70B": 70.55, "meta-llama/Llama-3.2-1B": 1.24,
    "meta-llama/Llama-3.2-3B": 3.21, "mistralai/Mistral-7B-Instruct-v0.3": 7.25, "Qwen/Qwen2.5-0.5B": 0.49,
    "Qwen/Qwen2.5-1.5B": 1.54, "Qwen/Qwen2.5-3B": 3.09, "Qwen/Qwen2.5-7B": 7.62, "Qwen/Qwen2.5-14B": 14.77,
    "Qwen/Qwen2.5-32B": 32.76, "Qwen/Qwen2.5-72B": 72.71, "Qwen/Qwen3-0.6B": 0.60, "Qwen/Qwen3-1.7B": 1.72,
    "Qwen/Qwen3-4B": 4.02, "Qwen/Qwen3-8B": 8.19, "Qwen/Qwen3-14B": 14.77, "Qwen/Qwen3-32B": 32.76,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 0.13, "HuggingFaceTB/SmolLM2-360M-Instruct": 0.36,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1.71, "llava-hf/llama3-llava-next-8b-hf": 8.36,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75, "Qwen/Qwen2.5-VL-7B-Instruct": 8.29, "Qwen/Qwen3-VL-4B-Instruct": 4.44,
    "google/gemma-3-4b-it": 4.30, "HuggingFaceTB/SmolVLM-256M-Instruct": 0.26,
    "HuggingFaceTB/SmolVLM-500M-Instruct": 0.51, "google/paligemma2-3b-mix-224": 3.03,
}  # fmt: skip


def test_the_table_holds_the_published_sizes() -> None:
    assert len({id(config) for config in known().values()}) == len(PUBLISHED)
    for source, billions in PUBLISHED.items():
        config = copy.deepcopy(known()[source])
        text = config.get_text_config()
        blocks, text.num_hidden_layers = text.num_hidden_layers, 1  # all are alike, and one is made faster
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:1]
        one = shape_of(on_meta(config))
        assert round((one.outside + blocks * (one.parameters - one.outside)) / 1e9, 2) == billions, source


def test_a_folder_needs_no_weights_and_a_gguf_file_no_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SHAPES["tiny"].save_pretrained(tmp_path)
    config, where = configuration(str(tmp_path))
    assert (config.hidden_size, config.num_key_value_heads) == (64, 2)
    assert where.endswith("config.json")
    monkeypatch.setenv("T2_CACHE", str(tmp_path / "cache"))
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(
        AutoConfig, "from_pretrained", lambda folder, **options: asked.append(options) or SHAPES["tiny"]
    )
    monkeypatch.setattr("t2.models.sources.check_gguf", lambda path: None)
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    assert configuration(str(tmp_path / "small.gguf"))[1] == "the header of small.gguf"
    assert asked == [{"gguf_file": "small.gguf"}]
    assert not (tmp_path / "cache").exists()


def test_without_the_hub_it_says_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **options: str) -> None:
        assert (name, options) == ("org/model", {"revision": "main"})
        raise OSError("We couldn't connect to the hub.\nMore")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(OSError, match=r"couldn't connect to the hub\. Check the name.*a folder that holds that file"):
        configuration("org/model@main")


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_sizes_on_meta_are_those_of_the_model(architecture: str) -> None:
    lm = tiny_model(architecture)
    assert shape_of(on_meta(lm.model.config)) == shape_of(lm.model)
    assert shape_of(lm.model).parameters == sum(weight.numel() for weight in lm.model.parameters())


def test_a_vision_encoder_counts_and_is_not_adapted() -> None:
    whole, text = tiny_llava().model, tiny_model().model
    assert shape_of(on_meta(whole.config)) == shape_of(whole)
    assert shape_of(whole).adapted == shape_of(text).adapted
    assert shape_of(whole).outside > shape_of(text).outside


def test_tied_heads_count_once() -> None:
    model = LlamaForCausalLM(SHAPES["135m"].__class__(**{**SHAPES["tiny"].to_dict(), "tie_word_embeddings": True}))
    assert shape_of(model).parameters == shape_of(on_meta(SHAPES["tiny"])).parameters - 64 * 261
