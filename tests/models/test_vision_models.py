"""Models with M-RoPE, masks for images, tiles and several images: what is sampled is what is trained, and what is not
read is refused. The families stand for those of the table in docs/models.md (`tests/bench/test_zoo.py`)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import adapt, random_state, tiny, token_ids
from tiny_pool import tiny_pool
from zoo_vision_models import tiny_vision

from t2.adaptation.fixed import Fixed
from t2.adaptation.two_pass import TwoPass
from t2.models import processors
from t2.models.chat import end_of_turn_id
from t2.models.checks import check_images, own_inputs
from t2.models.image_inputs import ids_with_images
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.policy import decode as decode_module
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.prefix import prefill
from t2.policy.prompt_sharing import why_not_shared
from t2.types import Completion, Example, PixelImage, Sampling


def image(seed: int, height: int, width: int) -> PixelImage:
    return PixelImage.of(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


EXAMPLES = [
    Example("What is it?", images=(image(0, 48, 80),)),
    Example("Which of the two is larger?", images=(image(1, 64, 40), image(2, 33, 32))),
    Example("No image."),
]
SAMPLED = Sampling(max_new_tokens=6, temperature=1.0, samples=2, seed=1)
TEXTS = [Example("No image."), Example("None here either, and this is longer.")]
FAMILIES = ["qwen2_5_vl", "gemma3", "paligemma", "llava_onevision"]
lm_of = cache(tiny_vision)


def sampled(lm: LanguageModel, examples: list[Example] = EXAMPLES) -> list[Completion]:
    return [one for group in HFGenerator(lm).generate(examples, SAMPLED) for one in group]


def drift(lm: LanguageModel, completions: list[Completion]) -> float:
    """The largest difference between log-probs of training and of sampling."""
    found = token_log_probs(lm, completions)
    return float(((found.log_probs - found.sampled) * found.mask).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_training_sees_the_log_probs_of_sampling_and_of_the_model_itself(family: str) -> None:
    lm = lm_of(family)
    completions = sampled(lm)
    assert drift(lm, completions) < 1e-4
    assert drift(lm, sampled(lm, TEXTS)) < 1e-4
    for index, completion in enumerate(completions):  # the first token after the prompt as its own processor reads it
        expected = lm.without_placeholders(lm.model(**own_inputs(lm, EXAMPLES[index // 2])).logits[0, -1].float())
        first = torch.log_softmax(expected, dim=-1)[completion.token_ids[0]]
        assert abs(float(first) - completion.log_probs[0]) < 1e-4


def test_what_places_images_is_not_shared_and_takes_its_own_positions_when_decoding(monkeypatch) -> None:
    lm = lm_of("qwen2_5_vl")
    assert why_not_shared(lm) == "has positions or a mask of its own for images, which know nothing of a tree"
    read = prefill(
        lm,
        [tuple(lm.encode(one)) for one in EXAMPLES],
        [0] * 3,
        lambda _: None,
        [e.images for e in EXAMPLES],
        new_tokens=1,
    )
    assert (read.shift < 0).tolist() == [True, True, False]  # an image of n tokens takes as many positions as its side
    completions = sampled(lm)
    honest = decode_module.decode

    def unshifted(model, groups, prompts, *more):
        return honest(
            model, groups, decode_module.Prompts(prompts.cache, prompts.logits, prompts.mask, 0 * prompts.shift), *more
        )

    monkeypatch.setattr("t2.policy.hf.decode", unshifted)
    assert drift(lm, completions) < 1e-4 < drift(lm, sampled(lm))


def test_a_model_whose_kinds_of_tokens_are_forgotten_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("t2.models.image_inputs.token_kinds", lambda *_: {})
    with pytest.raises(ValueError, match="reads images in a way that t2 does not know"):
        check_images(lm_of("gemma3"))


def test_experts_of_the_text_model_are_worn_in_two_passes() -> None:
    lm = tiny_vision("qwen2_5_vl")
    svf = adapt(lm)
    text = adapt(tiny("qwen2"))
    assert list(svf.state()) == list(text.state())  # names of modules are those of the text-only model
    generator = HFGenerator(lm, svf)
    found = {
        pass2: TwoPass(generator, tiny_pool(generator), Fixed(uniform=True), pass2=pass2).generate(
            EXAMPLES, Sampling(max_new_tokens=5)
        )
        for pass2 in ("per_example", "merged")
    }
    assert token_ids(found["merged"]) == token_ids(found["per_example"])
    svf.load(random_state(svf, 0, 0.3))
    assert token_ids(HFGenerator(lm, svf).generate(EXAMPLES, Sampling(max_new_tokens=5))) != token_ids(found["merged"])


# Processors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lm, path = tiny_vision("qwen2_5_vl"), tmp_path_factory.mktemp("qwen")
    lm.model.save_pretrained(path)
    processor = processors.without_videos(type(lm.processor))(
        lm.processor.image_processor, lm.tokenizer, processors.NoVideos(fps=2)
    )
    processor.save_pretrained(path)
    return path


def test_a_processor_is_loaded_without_torchvision_and_keeps_its_settings_for_videos(folder, monkeypatch) -> None:
    monkeypatch.setattr(processors, "is_torchvision_available", lambda: False)
    lm = load_model(str(folder))
    assert lm.encode(EXAMPLES[1]) == lm_of("qwen2_5_vl").encode(EXAMPLES[1])
    assert lm.processor.video_processor == {"fps": 2}
    assert json.loads((folder / "processor_config.json").read_text())["video_processor"] == {"fps": 2}


def test_what_is_missing_of_a_processor_is_said(folder, monkeypatch) -> None:
    monkeypatch.setattr(processors, "is_torchvision_available", lambda: False)

    def load(error: Exception) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(processors, "_in_parts", lambda *_: (_ for _ in ()).throw(error))
            load_model(str(folder))

    with pytest.raises(ValueError, match=r"cannot be made: Needs num2words\. Install that package"):
        load(ImportError("Needs\nnum2words. Or else."))
    with pytest.raises(ValueError, match="code of its own on the hub, which t2 does not run"):
        load(ValueError("Please pass the argument `trust_remote_code=True`"))
    with pytest.raises(FileNotFoundError, match="no whole processor: Can't load image processor"):
        load(OSError("Can't load image processor. If you were"))
    monkeypatch.setattr(processors, "MAKERS", {})
    with pytest.raises(ValueError, match=r"parts of its own \(image_processor, tokenizer\)"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("prompt", "images", "message"),
    [
        ("See <|video_pad|>.", (image(0, 32, 32),), "placeholder for a video .* reads images only"),
        ("See <|video_pad|>.", (), r"video_pad.*stands for an image or a video, and the example has no image"),
        ("See <|image_pad|>.", (image(0, 32, 32),), "2 image placeholders"),
    ],
)
def test_a_video_and_a_stray_placeholder_are_refused(prompt: str, images: tuple[PixelImage, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lm_of("qwen2_5_vl").encode(Example(prompt, images=images))


def test_an_image_for_a_processor_that_knows_none_is_refused() -> None:
    with pytest.raises(ValueError, match="SimpleNamespace has no token that stands for one"):
        ids_with_images(SimpleNamespace(), "?", EXAMPLES[0].images)


def test_the_end_of_a_turn_is_that_of_a_template_of_parts() -> None:
    """A template that passes over a string would begin, and end, with the token that begins a turn."""
    lm = tiny_vision("idefics3")
    template = (
        "<|im_start|>{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|eos|>{% endfor %}"
    )
    lm.processor.chat_template = lm.tokenizer.chat_template = template
    assert end_of_turn_id(lm.tokenizer, lm.processor) == lm.tokenizer.eos_token_id
    lm.processor.chat_template = template.replace("<|eos|>", "<|im_end|>")
    assert end_of_turn_id(lm.tokenizer, lm.processor) == lm.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn_id(lm.tokenizer) == lm.tokenizer.eos_token_id
