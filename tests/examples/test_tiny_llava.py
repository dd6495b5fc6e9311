"""The small LLaVA: phase 1 of its alignment, phase 2 through a frozen language model, and the script."""

import json

import numpy as np
import pytest
import torch

from examples.tiny_llava import Alignment, AlignmentTraining, answers_by_image, main
from t2.evaluation.results import Results
from t2.models.image_inputs import read_images
from t2.models.llava import VisionShape
from t2.models.loading import load_model
from t2.models.tiny import tiny_llava, tiny_model
from t2.run.metrics_file import read_metrics
from t2.training.optimizer import OptimizerSettings
from t2.types import Example, PixelImage

SHAPE = VisionShape(image_size=16, patch_size=8, hidden_size=16, layers=1, heads=2)


def shade(value, seed=0):
    noise = np.random.default_rng(seed).integers(0, 20, (8, 8))
    return PixelImage.of((value + noise).astype(np.uint8))


EXAMPLES = [
    Example("?", name, images=(shade(value, seed),)) for seed in range(8) for name, value in (("b", 0), ("w", 220))
]


def test_patches_become_near_their_word(caplog):
    with caplog.at_level("INFO"):
        Alignment(SHAPE, align_steps=60, align_batch=8, align_lr=3e-3).build(tiny_model(), EXAMPLES, source="x", seed=0)
    assert "100.0 % of the last batches' patches are nearest" in caplog.text


def test_an_image_with_two_answers_skips_phase_1(caplog):
    examples = [*EXAMPLES, Example("?", "other", images=EXAMPLES[0].images)]
    with caplog.at_level("INFO"):
        Alignment(SHAPE, align_steps=5).build(tiny_model(), examples, source="x", seed=0)
    assert "several answers" in caplog.text


@pytest.mark.parametrize(
    "examples",
    [[], [Example("?", "a")], [Example("?", None, images=(shade(0),))], [Example("?", "a", images=(shade(0),) * 2)]],
)
def test_examples_that_are_no_labeled_images(examples):
    assert answers_by_image(examples) is None


def test_the_same_seed_gives_the_same_model():
    first, second = (
        Alignment(SHAPE, align_steps=3, align_batch=4).build(tiny_model(), EXAMPLES, source="x", seed=1)
        for _ in range(2)
    )
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_features_have_the_standard_deviation_of_embeddings():
    lm = Alignment(SHAPE, align_steps=30, align_batch=16).build(tiny_model(), EXAMPLES, source="x", seed=0)
    read = read_images(lm.processor, lm.model, [one.images[:1] for one in EXAMPLES])
    features = torch.cat(list(lm.model.model.get_image_features(**read).pooler_output))
    torch.testing.assert_close(features.std(), lm.model.get_input_embeddings().weight.std(), rtol=0.01, atol=0)


def test_an_answer_longer_than_an_image_is_refused():
    examples = [Example("?", "far too long", images=EXAMPLES[0].images)]
    with pytest.raises(ValueError, match="12 tokens and an image 4"):
        Alignment(SHAPE).build(tiny_model(), examples, source="x", seed=0)


@pytest.mark.parametrize("numbers", [{"align_steps": -1}, {"align_batch": 0}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="allowed: at least"):
        Alignment(SHAPE, **numbers).build(tiny_model(), EXAMPLES, source="x", seed=0)


def test_only_encoder_and_projector_learn():
    lm = tiny_llava()
    module = AlignmentTraining(lm, OptimizerSettings(lr=1e-2), total_steps=5)
    text = {n: p.clone() for n, p in lm.model.named_parameters() if "vision" not in n and "projector" not in n}
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = module.training_step(EXAMPLES[:4], 0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    parameters = dict(lm.model.named_parameters())
    assert all(torch.equal(parameters[name], before) for name, before in text.items())


def test_the_script_writes_a_model_that_loads(tmp_path):
    options = "--base-model tiny --task digits --steps 2 --batch 2 --align-steps 2 --hidden-size 16 --limit 3"
    main(["--out", str(tmp_path), *options.split()])
    results = Results.read(tmp_path)
    assert set(results.scores["digits"]) == {"base", "aligned"}
    assert results.trainable_parameters > 0
    assert set(read_metrics(tmp_path / "metrics.csv")) == {0, 1}
    loaded = load_model(results.base_model)
    assert loaded.encode(Example("?", images=(shade(0),)))


def test_an_expert_learns_in_front_of_images(run_script, tmp_path):
    run_script(
        "train",
        f"hydra.run.dir={tmp_path}",
        "base_model=tiny_llava",
        "task=digits",
        "steps=2",
        "prompts_per_step=2",
        "sampling.samples=2",
        "sampling.max_new_tokens=3",
        "callbacks.validation.limit=3",
        "adapter.layers=0.5",
        "adapter.cache=false",
        "logger=csv",
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["scores"]["digits"]["expert"]["n"] == 3
    assert results["data"]["digits"]["source"] == "scikit-learn load_digits"
