"""Models: the split forward is the model's own, prompts are what the template says, errors name a way on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tiny_models import each_architecture, logits, original, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from t2.models.language_model import LanguageModel
from t2.models.loading import check_logits, load_model
from t2.models.tiny import BOS, byte_tokenizer, tiny_model
from t2.run.fetch import file_sha256
from t2.types import Example

HELLO = Example(prompt="hello")
CONF = Path(__file__).parents[2] / "conf" / "base_model"


@pytest.fixture(scope="module")
def llama() -> LanguageModel:
    return original()


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


def test_an_unknown_step_after_the_head_is_noticed(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LanguageModel, "logits", lambda self, h: 1.01 * self.model.lm_head(h).float())
    with pytest.raises(ValueError, match="an operation after its head"):
        check_logits(llama)


def test_nan_weights_are_noticed():
    lm = tiny()
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


@pytest.mark.parametrize(
    ("chat_template", "example", "text"),
    [
        (True, HELLO, "<|bos|><|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"),
        (
            True,
            Example(prompt="p", system="s", response_prefix="A:"),
            "<|bos|><|im_start|>system\ns<|im_end|>\n<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\nA:",
        ),
        (False, Example(prompt="p", system="s", response_prefix="A"), "<|bos|>s\n\np\nA"),
    ],
)
def test_the_prompt_is_the_template_or_plain_up_to_the_response(chat_template: bool, example: Example, text: str):
    lm = original(chat_template=chat_template)
    assert lm.tokenizer.decode(lm.encode(example)) == text


@pytest.mark.parametrize("chat_template", [True, False])
def test_bos_stands_once_and_without_a_template_only_the_end_of_text_ends_a_response(chat_template: bool):
    lm = original(chat_template=chat_template)
    assert lm.encode(HELLO).count(lm.tokenizer.convert_tokens_to_ids(BOS)) == 1
    ends = ["<|eos|>", "<|im_end|>"] if chat_template else ["<|eos|>"]
    assert lm.end_ids == set(lm.tokenizer.convert_tokens_to_ids(ends))


def test_without_a_template_bos_is_only_put_where_the_tokenizer_puts_it():
    lm = tiny_model(chat_template=False)
    lm.tokenizer.backend_tokenizer.post_processor = None
    assert lm.decode(lm.encode(HELLO)) == "hello\n"
    assert lm.tokenizer.bos_token_id not in lm.encode(HELLO)


def test_a_template_without_system_messages_says_what_to_do():
    lm = tiny()
    lm.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ValueError, match=r"no system role.*leave `system` out"):
        lm.encode(Example(prompt="p", system="s"))


@pytest.mark.parametrize("text", ["7 * 8 = 56", " two  spaces , kept !", "naïve ² 漢字\n"])
def test_decode_undoes_the_tokenizer(llama: LanguageModel, text: str):
    ids = llama.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert llama.decode([*ids, *llama.end_ids]) == text


def test_a_prompt_may_fill_the_context_but_not_exceed_it_with_what_is_reserved(llama: LanguageModel):
    room = llama.context_length - len(llama.encode(Example(prompt="")))
    assert len(llama.encode(Example(prompt="x" * room))) == llama.context_length
    with pytest.raises(ValueError, match=r"has 513 tokens .* is 512\. Shorten the prompt"):
        llama.encode(Example(prompt="x" * (room + 1)))
    with pytest.raises(ValueError, match="1 are kept for the answer"):
        llama.encode(Example(prompt="x" * room), reserve=1)


def test_every_end_of_the_generation_config_counts_and_pads_where_there_is_no_padding(llama: LanguageModel):
    model, tokenizer = tiny().model, byte_tokenizer()
    model.generation_config.eos_token_id = [7, 9]
    assert LanguageModel(model, llama.tokenizer, "x").end_ids == llama.end_ids | {7, 9}
    tokenizer.pad_token = None
    lm = LanguageModel(model, tokenizer, "x")
    assert lm.pad_id in lm.end_ids


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


@pytest.fixture(scope="module")
def smollm2() -> LanguageModel:
    settings: Any = OmegaConf.to_container(OmegaConf.load(CONF / "smollm2_135m.yaml"))
    settings.pop("_target_")
    return load_model(**settings)


@pytest.mark.embedded
def test_smollm2_answers_and_stops(smollm2: LanguageModel):
    ids = smollm2.encode(Example(prompt="What is the capital of France?"))
    with torch.no_grad():
        out = smollm2.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :]
    assert "Paris" in smollm2.decode(out)
    assert smollm2.tokenizer.convert_tokens_to_ids("<|im_end|>") in smollm2.end_ids


@pytest.mark.embedded
def test_smollm2_is_dequantized_only_once(smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    def twice(*_: Any, **__: Any) -> None:
        raise AssertionError("dequantized a second time")

    monkeypatch.setattr("t2.models.gguf.GgufConfig", twice)
    again = load_model(smollm2.source)
    assert torch.equal(again.model.lm_head.weight, smollm2.model.lm_head.weight)


@pytest.mark.embedded
def test_smollm2_splits_digits_off_white_space(smollm2: LanguageModel):
    assert smollm2.tokenizer.tokenize("\n\n42") == ["ĊĊ", "4", "2"]
