"""Models that see: prompts with images are read, answered, learned from and adapted as text is."""

import numpy as np
import pytest
import torch
from tiny_pool import tiny_generator, tiny_pool

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.fixed import Fixed
from t2.adaptation.two_pass import TwoPass
from t2.adapters.svf import SVF
from t2.adapters.targets import decoder_blocks, text_name
from t2.experts.expert import apply_expert
from t2.models.image_inputs import NEVER
from t2.models.llava import VisionShape, build_llava, save_llava
from t2.models.loading import check_images, load_model
from t2.models.tiny import tiny_llava, tiny_model
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_sees_can_be_built_in_every_precision(dtype):
    assert tiny_llava(dtype=dtype).processor is not None


def test_an_image_has_a_place_for_each_of_its_features(lm):
    ids = lm.encode(EXAMPLES[2])
    assert sum(token in lm.placeholder_ids for token in ids) == 2 * 16


def test_another_image_is_another_answer(lm):
    first, second = (
        token_log_probs(lm, [encode_reference(lm, Example("?", "yes", images=(image(s),)))]) for s in (0, 1)
    )
    assert not torch.allclose(first.log_probs, second.log_probs, atol=1e-4)


def test_a_batch_is_answered_as_each_example_alone(lm):
    together = HFGenerator(lm).generate(EXAMPLES, Sampling(max_new_tokens=6))
    alone = [HFGenerator(lm).generate([one], Sampling(max_new_tokens=6))[0] for one in EXAMPLES]
    assert [group[0].token_ids for group in together] == [group[0].token_ids for group in alone]


def test_completions_carry_their_images(lm):
    groups = HFGenerator(lm).generate(EXAMPLES, SAMPLED)
    assert [group[0].images for group in groups] == [one.images for one in EXAMPLES]


@pytest.mark.parametrize("shared", [False, True])
def test_training_sees_the_log_probs_of_sampling(lm, shared):
    flat = [one for group in HFGenerator(lm).generate(EXAMPLES, SAMPLED) for one in group]
    found = token_log_probs(lm, flat, shared=shared)
    for row, one in zip(found.log_probs, flat, strict=True):
        torch.testing.assert_close(row[: len(one.token_ids)], torch.tensor(one.log_probs), atol=1e-4, rtol=0)
    assert bool(found.entropy.isfinite().all())


def test_prompts_are_shared_after_a_check_that_has_an_image(lm):
    assert prompts_can_be_shared(lm)


def test_the_check_notices_an_image_that_sharing_would_misplace(lm, monkeypatch):
    right = lm.pixels
    monkeypatch.setattr(
        lm, "pixels", lambda images: {k: v if len(images) > 1 else 0 * v for k, v in right(images).items()}
    )
    monkeypatch.setattr("t2.policy.prompt_sharing._CHECKED", {})  # the same model has passed it
    assert not prompts_can_be_shared(lm)


def test_equal_words_before_different_images_share_nothing(lm):
    completions = [encode_reference(lm, one) for one in EXAMPLES[:2]]
    assert completions[0].prompt_ids == completions[1].prompt_ids
    assert group_by_prompt(completions) == [[0], [1]]
    assert len(shared_rows(completions, lm.pad_id, lm.device).images) == 2


def test_what_stands_for_an_image_is_never_written(lm):
    states = torch.randn(50, lm.model.config.get_text_config().hidden_size)
    assert bool((lm.logits(states)[:, list(lm.placeholder_ids)] == NEVER).all())


def test_a_model_of_text_refuses_an_image():
    with pytest.raises(ValueError, match="takes text only"):
        tiny_model().encode(EXAMPLES[0])


def test_a_question_that_holds_the_placeholder_is_refused(lm):
    with pytest.raises(ValueError, match="2 image placeholders"):
        lm.encode(Example("What is <image>?", images=(image(0),)))


def test_an_image_that_does_not_decode_is_named(lm, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png cannot be decoded"):
        HFGenerator(lm).generate([Example("?", images=(FileImage(tmp_path / "broken.png"),))], Sampling())


def test_a_model_that_reads_images_in_its_own_way_is_refused(monkeypatch):
    lm = tiny_llava()
    monkeypatch.setattr(lm, "pixels", lambda images: {"pixel_values": torch.zeros(1, 3, 32, 32)})
    with pytest.raises(ValueError, match="for an image differ"):
        check_images(lm)


def test_saved_and_loaded_it_is_the_same_model(lm, tmp_path):
    save_llava(lm, tmp_path)
    loaded = load_model(str(tmp_path))
    completions = [encode_reference(lm, one) for one in EXAMPLES]
    assert completions == [encode_reference(loaded, one) for one in EXAMPLES]
    torch.testing.assert_close(
        token_log_probs(loaded, completions).log_probs, token_log_probs(lm, completions).log_probs
    )


def test_its_language_model_is_the_text_model_bit_for_bit():
    text = tiny_model()
    seeing = build_llava(text, VisionShape(hidden_size=32, layers=1, heads=2), source="tiny")
    ids = torch.tensor([text.encode(Example("Only words."))])
    assert seeing.encode(Example("Only words.")) == ids[0].tolist()
    mask, places = torch.ones_like(ids), torch.arange(ids.shape[1])[None]
    assert torch.equal(seeing.hidden_states(ids, mask, places), text.hidden_states(ids, mask, places))


def test_a_model_that_sees_is_given_no_second_pair_of_eyes(lm):
    with pytest.raises(ValueError, match="is a vision-language model already"):
        build_llava(lm, VisionShape(), source="twice")


@pytest.mark.parametrize("sizes", [{"image_size": 30}, {"hidden_size": 190, "heads": 3}, {"layers": 0}])
def test_sizes_that_do_not_go_together_are_refused(sizes):
    with pytest.raises(ValueError, match=r"multiple|at least 1"):
        VisionShape(**sizes)


# Adapting the part that reads and writes text


def adapted(modules="all", layers=None):
    lm = tiny_llava()
    svf = SVF(modules=modules, layers=layers, cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    return lm, svf


def moved(svf, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: 1 + 0.3 * torch.randn(len(s), generator=generator) for name, s in svf.singular_values.items()}


def test_modules_are_called_as_in_the_model_of_text():
    _, seeing = adapted()
    text = SVF(cache=False, progress=False)
    text.inject(tiny_model().model, "tiny")
    assert list(seeing.singular_values) == list(text.singular_values)
    for name, s in text.singular_values.items():
        torch.testing.assert_close(seeing.singular_values[name], s)


def test_a_deeper_vision_tower_is_not_mistaken_for_the_language_model():
    lm = build_llava(tiny_model(), VisionShape(hidden_size=32, layers=6, heads=2), source="tiny")
    assert decoder_blocks(lm.model)[0] == "model.language_model.layers"


def test_names_of_a_text_model_stay():
    assert text_name(tiny_model().model, "model.layers.0.mlp.up_proj") == "model.layers.0.mlp.up_proj"


def test_half_of_the_layers():
    _, svf = adapted(layers=0.5)
    assert {name.split(".")[2] for name in svf.layers} == {"1"}


def test_one_everywhere_is_the_base():
    lm, svf = adapted()
    completions = [encode_reference(lm, one) for one in EXAMPLES]
    with svf.disabled():
        base = token_log_probs(lm, completions).log_probs
    torch.testing.assert_close(token_log_probs(lm, completions).log_probs, base, atol=1e-4, rtol=0)


def test_merged_is_factored():
    lm, svf = adapted()
    svf.load(moved(svf))
    completions = [encode_reference(lm, one) for one in EXAMPLES]
    factored = token_log_probs(lm, completions).log_probs.detach()
    with svf.merged():
        torch.testing.assert_close(token_log_probs(lm, completions).log_probs, factored, atol=1e-4, rtol=0)


def test_merged_weights_bear_the_names_of_this_very_model():
    lm, svf = adapted()
    svf.load(moved(svf))
    fresh = tiny_llava()
    parameters = dict(fresh.model.named_parameters())
    for name, weight in svf.merged_weights():
        parameters[name].data.copy_(weight)
    completions = [encode_reference(lm, one) for one in EXAMPLES]
    torch.testing.assert_close(
        token_log_probs(fresh, completions).log_probs, token_log_probs(lm, completions).log_probs, atol=1e-4, rtol=0
    )


def test_each_example_wears_its_own_state_in_one_batch():
    lm, svf = adapted()
    states = [moved(svf, seed) for seed in range(2)]
    scales = {name: torch.stack([state[name] for state in states]) for name in svf.singular_values}
    generator, sampling = HFGenerator(lm, svf), Sampling(max_new_tokens=6)
    index = [0, 1, 1, 0]
    rows = generator.with_per_example_scales(lambda which: {n: s[list(which)] for n, s in scales.items()}, index)
    alone = [
        generator.with_state(states[i]).generate([one], sampling)[0][0] for i, one in zip(index, EXAMPLES, strict=True)
    ]
    assert [group[0].token_ids for group in rows.generate(EXAMPLES, sampling)] == [one.token_ids for one in alone]


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


def test_labels_are_scored_behind_images(lm):
    labels = [" cat", " a dog"]
    together = score_labels(lm, EXAMPLES, labels)
    alone = torch.cat([score_labels(lm, [one], labels) for one in EXAMPLES])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


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
    assert [group[0].token_ids for group in per_example] == [group[0].token_ids for group in merged]
    assert [group[0].images for group in per_example] == [one.images for one in EXAMPLES]


def test_an_expert_of_the_text_model_is_worn_where_it_is_asked_for():
    expert = tiny_pool(tiny_generator()).experts["math"]
    lm, svf = adapted()
    with pytest.raises(ValueError, match="transfer=true"):
        apply_expert(svf, expert, source=lm.source)
    apply_expert(svf, expert, source=lm.source, transfer=True)
    for name, z in svf.state().items():
        torch.testing.assert_close(z, expert.scales[name])
