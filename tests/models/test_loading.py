"""Loading: the split forward is the model's own, folders and sources load, errors name a way on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tiny_models import each_architecture, logits, original, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from t2.models.checks import check_logits
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.models.tiny import byte_tokenizer, tiny_model
from t2.run.fetch import file_sha256
from t2.types import Example

HELLO = Example(prompt="hello")
CONF = Path(__file__).parents[2] / "conf" / "base_model"


def forward(lm: LanguageModel, ids: list[int], left: int = 0) -> torch.Tensor:
    """Hidden states of one prompt (S, D), padded by `left` tokens that are then cut off."""
    row = torch.tensor([[lm.pad_id] * left + ids])
    mask = torch.tensor([[0] * left + [1] * len(ids)])
    with torch.no_grad():
        return lm.hidden_states(row, mask, (mask.cumsum(-1) - 1).clamp(min=0))[0, left:]


def small(model_type: str, **settings: Any) -> LanguageModel:
    """A model of a family that `tiny` does not have."""
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(
        model_type, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, pad_token_id=0, **settings,
    )  # fmt: skip
    return LanguageModel(AutoModelForCausalLM.from_config(config), tokenizer, model_type)


@each_architecture
def test_logits_are_the_models_own_far_from_uniform_and_the_same_with_left_padding(architecture: str):
    lm = original(architecture)
    ids = lm.encode(HELLO)
    own = logits(lm, torch.tensor([ids]))[0]
    torch.testing.assert_close(lm.logits(forward(lm, ids)), own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(forward(lm, ids, left=5), forward(lm, ids), rtol=1e-4, atol=1e-4)
    assert own.std() > 0.5
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert not any(module.training for module in lm.model.modules())


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gemma2", {"final_logit_softcapping": 0.5, "head_dim": 8}),
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_what_comes_after_the_head_is_repeated(model_type: str, settings: dict[str, float]):
    check_logits(small(model_type, **settings))


def test_an_unknown_step_after_the_head_and_nan_weights_are_noticed(monkeypatch: pytest.MonkeyPatch):
    lm = tiny()
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "logits", lambda self, h: 1.01 * self.model.lm_head(h).float())
        with pytest.raises(ValueError, match="an operation after its head"):
            check_logits(lm)
    lm.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="hold NaN"):
        check_logits(lm)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@each_architecture
def test_half_precision_loads_and_gives_float32_logits(architecture: str, dtype: str):
    lm = tiny_model(architecture, dtype=dtype)
    assert lm.dtype == getattr(torch, dtype)
    assert lm.logits(forward(lm, [1, 2, 3])).dtype == torch.float32


@each_architecture
def test_a_saved_folder_loads_the_same_model_in_the_dtype_asked_for(architecture: str, tmp_path: Path):
    lm = original(architecture)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    ids = lm.encode(HELLO)
    assert loaded.encode(HELLO) == ids
    assert (loaded.end_ids, loaded.pad_id, loaded.context_length) == (lm.end_ids, lm.pad_id, 512)
    row = torch.tensor([ids])
    torch.testing.assert_close(logits(loaded, row), logits(lm, row), rtol=1e-5, atol=1e-5)
    assert load_model(str(tmp_path), dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ["llama_bias", "qwen2", "gpt2"])
def test_biases_are_not_zero_and_gpt2_has_conv1d_weights(architecture: str):
    model = original(architecture).model
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases
    assert all(bias.any() for bias in biases)
    assert any(type(module).__name__ == "Conv1D" for module in model.modules()) == (architecture == "gpt2")


def test_the_seed_makes_the_weights_and_leaves_torchs_own_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, same, other = (tiny_model(seed=seed).model.lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "lama"}, "Did you mean 'llama'"),
        ({"dtype": "bf16"}, "allowed: float32, bfloat16, float16"),
        ({"dtype": "float61"}, "Did you mean 'float16'"),
        ({"device": "gpu"}, "allowed: cpu, cuda, cuda:N, auto"),
        ({"hidden_size": 30}, "multiple of 8"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        tiny_model(**arguments)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_an_error_and_auto_the_cpu(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="torch sees 0 CUDA devices"):
        load_model("org/name", device=device)
    assert tiny_model(device="auto").device.type == "cpu"


def test_a_hub_out_of_reach_names_the_alternatives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"from the hub.*a folder.*\.gguf.*pypi:"):
        load_model("no-such-org/no-such-model")


def test_a_revision_is_handed_on(monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}

    def refuse(name: str, **options: Any) -> None:
        seen.update(options, name=name)
        raise OSError("gated")

    monkeypatch.setattr("t2.models.loading.AutoConfig.from_pretrained", refuse)
    with pytest.raises(OSError, match="gated"):
        load_model("org/name@v1.2")
    assert (seen["name"], seen["revision"]) == ("org/name", "v1.2")


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk trouble")

    monkeypatch.setenv("T2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("t2.models.loading.AutoTokenizer.from_pretrained", fail)
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(OSError, match="disk trouble"):
        load_model(str(path), sha256=file_sha256(path))
    assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.mark.embedded
def test_smollm2_answers_and_stops_splits_digits_and_is_dequantized_once(monkeypatch: pytest.MonkeyPatch):
    settings: Any = OmegaConf.to_container(OmegaConf.load(CONF / "smollm2_135m.yaml"))
    settings.pop("_target_")
    lm = load_model(**settings)
    ids = lm.encode(Example(prompt="What is the capital of France?"))
    with torch.no_grad():
        out = lm.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :]
    assert "Paris" in lm.decode(out)
    assert lm.tokenizer.convert_tokens_to_ids("<|im_end|>") in lm.end_ids
    assert lm.tokenizer.tokenize("\n\n42") == ["ĊĊ", "4", "2"]
    monkeypatch.setattr("t2.models.gguf.GgufConfig", None)  # a second conversion would fail
    assert torch.equal(load_model(lm.source).model.lm_head.weight, lm.model.lm_head.weight)
