"""On a pretended GPU: every architecture, type and parametrization from injection to two passes, with Lightning on the
CPU, and nothing moves the model or the adapter."""

from __future__ import annotations

from pathlib import Path

import accelerate
import lightning as L
import numpy as np
import pytest
import torch
from pretend_device import place, pretend
from tiny_models import random_state, same_states, stacked
from tiny_pool import tiny_pool
from training_run import fit, flat, make_module

from examples.tiny_llava import AlignmentTraining
from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.two_pass import TwoPass
from t2.adapters.svf import SVF
from t2.evaluation.scoring import evaluate
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_llava, tiny_model
from t2.policy.hf import HFGenerator
from t2.policy.kl_floor import kl_floor
from t2.policy.label_scores import score_labels
from t2.policy.mean_states import mean_states
from t2.training.activation_checkpointing import recompute_blocks
from t2.training.callbacks import LAST_CHECKPOINT
from t2.training.optimizer import OptimizerSettings
from t2.types import Example, PixelImage, Sampling

GPU = torch.device("cuda:0")
GREEDY = Sampling(max_new_tokens=3)
ARCHITECTURES = ("llama", "gemma2", "gpt2", "llava")
IMAGE = PixelImage.of(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))


def on_gpu(architecture: str, dtype: str) -> LanguageModel:
    if architecture != "llava":
        return tiny_model(architecture, dtype=dtype, device="cuda")
    lm = tiny_llava(dtype=dtype)
    lm.model.to(GPU)
    return lm


def questions(architecture: str) -> list[Example]:
    images = (IMAGE,) if architecture == "llava" else ()
    return [Example(f"What is {n} + 2? Say it.", answer="4", images=images) for n in range(2)]


@pytest.mark.parametrize(("dtype", "parametrization"), [("float32", "sigmoid_nuclear"), ("bfloat16", "direct")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_stays_on_its_device(architecture: str, dtype: str, parametrization: str, tmp_path: Path) -> None:
    with pretend():
        module = make_module(lm=on_gpu(architecture, dtype), parametrization=parametrization, total_steps=2)
        fit(module, tmp_path, steps=2)
        lm, svf = module.lm, module.adapter
        assert isinstance(svf, SVF)
        where = {tensor.device for tensor in (*lm.model.parameters(), *lm.model.buffers(), *svf.parameters())}
        assert where == {GPU}, "the trainer moved something"
        trained = flat(module)
        assert place(trained).type == "cpu"
        assert (trained - 1).abs().max() > 0
        asked, generator = questions(architecture), HFGenerator(lm, svf)
        assert evaluate(generator, module.task, asked, GREEDY, system="expert").scores
        assert generator.with_state(random_state(svf)).generate(asked, GREEDY)
        scales = stacked(random_state(svf, 1), random_state(svf, 2))
        rows = generator.with_per_example_scales(
            lambda numbers: {k: z[list(numbers)] for k, z in scales.items()}, [1, 0]
        )
        assert rows.generate(asked, GREEDY)
        assert score_labels(lm, asked, ["a", "bc"]).device.type == "cpu"


@pytest.mark.parametrize("parametrization", ["direct", "sigmoid_nuclear"])
def test_resuming_on_a_gpu_ends_at_the_same_numbers(tmp_path: Path, parametrization: str) -> None:
    with pretend():

        def start() -> object:
            return make_module(lm=on_gpu("llama", "bfloat16"), parametrization=parametrization)

        whole, first, second = start(), start(), start()
        fit(whole, tmp_path / "whole", steps=4)
        fit(first, tmp_path / "parts", steps=2)
        assert not same_states(first.adapter.state(), whole.adapter.state())
        fit(second, tmp_path / "parts", steps=4, ckpt=tmp_path / "parts" / LAST_CHECKPOINT)
        assert same_states(second.adapter.state(), whole.adapter.state())


@pytest.mark.parametrize("pass2", ["merged", "per_example"])
def test_two_passes_on_a_gpu(pass2: str) -> None:
    with pretend():
        generator = HFGenerator(lm := on_gpu("llama", "float32"), svf := SVF(cache=False, progress=False))
        svf.inject(lm.model, lm.source)
        two = TwoPass(generator, tiny_pool(generator), PromptDispatch(), pass2=pass2)
        assert len(two.generate(questions("llama"), GREEDY)) == 2


def test_aligning_a_llava_on_a_gpu_leaves_one_that_generates_and_is_saved(tmp_path: Path) -> None:
    with pretend():
        lm, asked = on_gpu("llava", "float32"), questions("llava")
        training = AlignmentTraining(lm, OptimizerSettings(), 2)
        trainer = L.Trainer(
            accelerator="cpu", max_steps=2, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        training.transfer_batch_to_device = lambda batch, *_: batch
        trainer.fit(training, torch.utils.data.DataLoader([asked] * 2, batch_size=None))
        assert len(training.losses) == 2
        assert {parameter.device for parameter in lm.model.parameters()} == {GPU}
        assert not any(parameter.requires_grad for parameter in lm.model.parameters())
        assert HFGenerator(lm).generate(asked, GREEDY)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_a_model_spread_over_two_gpus_trains_and_generates(tmp_path: Path, dtype: str) -> None:
    found = []
    for spread in (False, True):
        with pretend(2):
            lm = tiny_model("llama", dtype=dtype, layers=2, device="cpu" if spread else "cuda")
            if spread:
                near = ["model.embed_tokens", "model.rotary_emb", "model.layers.0"]
                far = ["model.layers.1", "model.norm", "lm_head"]
                accelerate.dispatch_model(
                    lm.model, dict.fromkeys(near, "cuda:0") | dict.fromkeys(far, "cuda:1"), force_hooks=True
                )
            module = make_module(lm=lm, total_steps=2)
            recompute_blocks(lm.model)
            fit(module, tmp_path / f"{spread}", steps=2)
            assert {p.device.index for p in module.adapter.trainable()} == ({0, 1} if spread else {0})
            scales = stacked(random_state(module.adapter, 1), random_state(module.adapter, 2))
            rows = module.generator.with_per_example_scales(
                lambda states, z=scales: {k: v[list(states)] for k, v in z.items()}, [0, 1]
            )
            assert kl_floor(lm, module.adapter, "policy_base") >= 0.0
            assert mean_states(lm, ["a question"], [1, 2]).isfinite().all()
            found.append((flat(module), rows.generate(questions("llama"), Sampling(max_new_tokens=8, samples=3))))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
