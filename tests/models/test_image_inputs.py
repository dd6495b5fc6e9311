"""Vision-language models: prompts with images are encoded, completed, trained on and adapted as text is."""

import numpy as np
import pytest
import torch
from tiny_models import adapt, original, random_state, stacked, token_ids
from tiny_pool import tiny_generator, tiny_pool

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.fixed import Fixed
from t2.adaptation.two_pass import TwoPass
from t2.adapters.targets import decoder_blocks, text_name
from t2.experts.expert import apply_expert
from t2.models.checks import check_images
from t2.models.image_inputs import NEVER
from t2.models.llava import VisionShape, build_llava, save_llava
from t2.models.loading import load_model
from t2.models.tiny import tiny_llava
from t2.policy.hf import HFGenerator
from t2.policy.label_scores import score_labels
from t2.policy.log_probs import token_log_probs
from t2.policy.packing import group_by_prompt, shared_rows
from t2.policy.prompt_sharing import prompts_can_be_shared
from t2.policy.reference import encode_reference
from t2.tasks.images import FileImage
from t2.types import Example, PixelImage, Sampling


def image(seed, size=20):
    return PixelImage.of(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def lm():
    return tiny_llava()


EXAMPLES = [
    Example("What is it?", images=(image(0),), answer="a cat"),
    Example("What is it?", images=(image(1),), answer="a dog"),
    Example("And these two, which one is larger?", images=(image(2), image(3)), answer="the first"),
    Example("No image at all.", answer="none"),
]
SAMPLED = Sampling(max_new_tokens=6, temperature=1.0, samples=3, seed=1)


def test_an_image_has_a_placeholder_for_each_of_its_features_that_is_never_generated(lm):
    assert sum(token in lm.placeholder_ids for token in lm.encode(EXAMPLES[2])) == 2 * 16
    states = torch.randn(50, lm.model.config.get_text_config().hidden_size)
    assert bool((lm.logits(states)[:, list(lm.placeholder_ids)] == NEVER).all())


def test_a_llava_can_be_built_in_half_precision():
    assert tiny_llava(dtype="bfloat16").processor is not None


def test_another_image_is_another_answer(lm):
    first, second = (
        token_log_probs(lm, [encode_reference(lm, Example("?", "yes", images=(image(s),)))]) for s in (0, 1)
    )
    assert not torch.allclose(first.log_probs, second.log_probs, atol=1e-4)


def test_a_batch_is_completed_and_its_labels_scored_as_each_example_alone(lm):
    together = HFGenerator(lm).generate(EXAMPLES, Sampling(max_new_tokens=6))
    alone = [HFGenerator(lm).generate([one], Sampling(max_new_tokens=6))[0] for one in EXAMPLES]
    assert token_ids(together) == token_ids(alone)
    assert [group[0].images for group in together] == [one.images for one in EXAMPLES]
    labels = [" cat", " a dog"]
    scores = torch.cat([score_labels(lm, [one], labels) for one in EXAMPLES])
    torch.testing.assert_close(score_labels(lm, EXAMPLES, labels), scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shared", [False, True])
def test_training_sees_the_log_probs_of_sampling(lm, shared):
    flat = [one for group in HFGenerator(lm).generate(EXAMPLES, SAMPLED) for one in group]
    found = token_log_probs(lm, flat, shared=shared)
    for row, one in zip(found.log_probs, flat, strict=True):
        torch.testing.assert_close(row[: len(one.token_ids)], torch.tensor(one.log_probs), atol=1e-4, rtol=0)
    assert bool(found.entropy.isfinite().all())


def test_prompts_are_shared_after_a_check_that_notices_a_misplaced_image(lm, monkeypatch):
    assert prompts_can_be_shared(lm)
    right = lm.image_inputs
    monkeypatch.setattr(
        lm,
        "image_inputs",
        lambda images, *more: {k: v if sum(map(len, images)) > 1 else 0 * v for k, v in right(images, *more).items()},
    )
    monkeypatch.setattr("t2.policy.prompt_sharing._CHECKED", {})  # the same model has passed it
    assert not prompts_can_be_shared(lm)


def test_equal_words_before_different_images_share_nothing(lm):
    completions = [encode_reference(lm, one) for one in EXAMPLES[:2]]
    assert completions[0].prompt_ids == completions[1].prompt_ids
    assert group_by_prompt(completions) == [[0], [1]]
    assert len(shared_rows(completions, lm.pad_id, lm.device).images) == 2


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda lm: original().encode(EXAMPLES[0]), "takes text only"),
        (lambda lm: lm.encode(Example("What is <image>?", images=(image(0),))), "2 image placeholders"),
        (lambda lm: build_llava(lm, VisionShape(), source="twice"), "is a vision-language model already"),
        (lambda lm: VisionShape(image_size=30), "multiple"),
        (lambda lm: VisionShape(hidden_size=190, heads=3), "multiple"),
        (lambda lm: VisionShape(layers=0), "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(lm, refused, message):
    with pytest.raises(ValueError, match=message):
        refused(lm)


def test_an_image_that_does_not_decode_is_named(lm, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png cannot be decoded"):
        HFGenerator(lm).generate([Example("?", images=(FileImage(tmp_path / "broken.png"),))], Sampling())


def test_a_model_that_reads_images_otherwise_is_refused(monkeypatch):
    lm = tiny_llava()
    monkeypatch.setattr(lm, "image_inputs", lambda *_: {"pixel_values": torch.zeros(3, 3, 32, 32)})
    with pytest.raises(ValueError, match="for an image differ"):
        check_images(lm)


def test_saved_and_loaded_it_is_the_same_model(lm, tmp_path):
    save_llava(lm, tmp_path)
    loaded = load_model(str(tmp_path))
    assert references(lm) == references(loaded)
    found, expected = (token_log_probs(one, references(lm)).log_probs for one in (loaded, lm))
    torch.testing.assert_close(found, expected)


def test_its_language_model_is_the_text_only_model_bit_for_bit_whatever_the_depth_of_its_encoder():
    text = original()
    llava = build_llava(text, VisionShape(hidden_size=32, layers=6, heads=2), source="tiny")
    assert decoder_blocks(llava.model)[0] == "model.language_model.layers"
    ids = torch.tensor([text.encode(Example("Only words."))])
    assert llava.encode(Example("Only words.")) == ids[0].tolist()
    mask, positions = torch.ones_like(ids), torch.arange(ids.shape[1])[None]
    assert torch.equal(llava.hidden_states(ids, mask, positions), text.hidden_states(ids, mask, positions))


# Adapting the language model


def adapted(**settings):
    lm = tiny_llava()
    return lm, adapt(lm, **settings)


def references(lm):
    return [encode_reference(lm, one) for one in EXAMPLES]


def test_modules_are_called_as_in_the_text_only_model():
    _, llava = adapted()
    text = tiny_generator().adapter
    assert list(llava.singular_values) == list(text.singular_values)
    for name, s in text.singular_values.items():
        torch.testing.assert_close(llava.singular_values[name], s)
        assert text_name(original().model, name) == name
    _, half = adapted(layers=0.5)
    assert {name.split(".")[2] for name in half.layers} == {"1"}


def test_factored_is_merged_and_a_fresh_model_with_the_merged_weights_and_one_is_the_base():
    lm, svf = adapted()
    completions = references(lm)
    with svf.disabled():
        base = token_log_probs(lm, completions).log_probs
    torch.testing.assert_close(token_log_probs(lm, completions).log_probs, base, atol=1e-4, rtol=0)
    svf.load(random_state(svf, 0, 0.3))
    factored = token_log_probs(lm, completions).log_probs.detach()
    assert not torch.allclose(factored, base, atol=1e-2)
    with svf.merged():
        torch.testing.assert_close(token_log_probs(lm, completions).log_probs, factored, atol=1e-4, rtol=0)
    fresh = tiny_llava()
    parameters = dict(fresh.model.named_parameters())
    for name, weight in svf.merged_weights():
        parameters[name].data.copy_(weight)
    torch.testing.assert_close(token_log_probs(fresh, completions).log_probs, factored, atol=1e-4, rtol=0)


def test_each_example_has_its_own_state_in_one_batch():
    lm, svf = adapted()
    states = [random_state(svf, seed, 0.3) for seed in range(2)]
    generator, sampling, index = HFGenerator(lm, svf), Sampling(max_new_tokens=6), [0, 1, 1, 0]
    together = generator.with_per_example_scales(lambda which: stacked(*(states[n] for n in which)), index)
    alone = [
        generator.with_state(states[i]).generate([one], sampling)[0] for i, one in zip(index, EXAMPLES, strict=True)
    ]
    assert token_ids(together.generate(EXAMPLES, sampling)) == token_ids(alone)


def test_gradients_reach_z_through_images_and_shared_prompts_give_the_same():
    lm, svf = adapted()
    flat = [one for group in HFGenerator(lm, svf).generate(EXAMPLES, SAMPLED) for one in group]
    gradients = []
    for shared in (False, True):
        for parameter in svf.trainable():
            parameter.grad = None
        token_log_probs(lm, flat, shared=shared).log_probs.sum().backward()
        gradients.append(torch.cat([parameter.grad for parameter in svf.trainable()]))
    assert float(gradients[0].abs().max()) > 0
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-3, rtol=1e-3)


# Two passes


@pytest.mark.parametrize("strategy", [Fixed(uniform=True), PromptDispatch(mode="score")], ids=["uniform", "prompt"])
def test_two_passes_answer_images_the_same_way_merged_and_per_example(strategy):
    lm, svf = adapted()
    generator = HFGenerator(lm, svf)
    pool = tiny_pool(generator)
    per_example, merged = (
        TwoPass(generator, pool, strategy, pass2=pass2).generate(EXAMPLES, Sampling(max_new_tokens=5))
        for pass2 in ("per_example", "merged")
    )
    assert token_ids(per_example) == token_ids(merged)
    assert [group[0].images for group in per_example] == [one.images for one in EXAMPLES]


def test_an_expert_of_the_text_only_model_is_applied_with_transfer():
    expert = tiny_pool(tiny_generator()).experts["math"]
    lm, svf = adapted()
    with pytest.raises(ValueError, match="transfer=true"):
        apply_expert(svf, expert, source=lm.source)
    apply_expert(svf, expert, source=lm.source, transfer=True)
    for name, z in svf.state().items():
        torch.testing.assert_close(z, expert.scales[name])
