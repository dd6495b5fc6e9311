"""The training step: what it learns, what it checks, and that stopping and going on changes nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import LetterTask
from graded_task import GradedLetters
from lightning.fabric.utilities.exceptions import MisconfigurationException

from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.reference import encode_reference
from t2.run.metrics_csv import MetricsCSV, read_metrics
from t2.run.results import SAMPLES_FILE
from t2.training.callbacks import LAST_CHECKPOINT, Checkpoints, SampleTable, Validation
from t2.training.data import PromptData
from t2.training.module import ExpertTraining
from t2.training.objectives import RLOO, SFT, Objective, Reinforce
from t2.training.optimizer import OptimizerSettings
from t2.types import Example, Sampling

STEPS = 6


def make_module(
    *,
    task: LetterTask | None = None,
    objective: Objective | None = None,
    micro_batch_tokens: int = 4096,
    architecture: str = "llama",
    modules: str = "all",
    lr: float = 2e-3,
    total_steps: int = STEPS,
    parametrization: str = "direct",
) -> ExpertTraining:
    lm = tiny_model(architecture)
    adapter = SVF(modules=modules, parametrization=parametrization, cache=False, progress=False)
    adapter.inject(lm.model, lm.source)
    return ExpertTraining(
        lm=lm,
        adapter=adapter,
        task=task or LetterTask(),
        objective=objective or RLOO(),
        generator=HFGenerator(lm, adapter),
        metadata=ExpertMetadata(
            base_model=lm.source,
            fingerprint=fingerprint_of(adapter.singular_values),
            parametrization=parametrization,
            task="letters",
            domain="letters",
            description="",
            objective="RLOO",
            step=0,
            t2_version="test",
        ),
        sampling=Sampling(max_new_tokens=6, temperature=1.0, samples=4),
        optimizer=OptimizerSettings(lr=lr, warmup_steps=1),
        total_steps=total_steps,
        micro_batch_tokens=micro_batch_tokens,
        kl_every=3,
        seed=7,
    )


def fit(
    module: ExpertTraining, folder: Path, *, steps: int = STEPS, ckpt: Path | None = None, **options: object
) -> L.Trainer:
    data = PromptData(module.task, prompts_per_step=3, steps=STEPS, seed=7)
    settings = {
        "callbacks": [Validation(every=2), Checkpoints()],
        "logger": MetricsCSV(str(folder)),
        "max_steps": steps,
    } | options
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        default_root_dir=folder,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return trainer


def flat(module: ExpertTraining) -> torch.Tensor:
    return torch.cat(list(module.adapter.state().values()))


@pytest.mark.parametrize("parametrization", ["direct", "sigmoid_nuclear"])
def test_resuming_ends_at_the_same_numbers(tmp_path: Path, parametrization: str) -> None:
    whole = make_module(parametrization=parametrization)
    fit(whole, tmp_path / "whole")
    first = make_module(parametrization=parametrization)
    fit(first, tmp_path / "parts", steps=3)
    assert not torch.equal(flat(first), flat(whole))
    second = make_module(parametrization=parametrization)
    torch.manual_seed(999)  # whatever the global generator holds must not matter
    fit(second, tmp_path / "parts", ckpt=tmp_path / "parts" / LAST_CHECKPOINT)
    assert torch.equal(flat(second), flat(whole))
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "parts")]
    assert rows[0].keys() == rows[1].keys()
    for step in rows[0]:  # all but the measured seconds
        same = {name for name in rows[0][step] if "second" not in name}
        assert {name: rows[0][step][name] for name in same} == {name: rows[1][step][name] for name in same}, step
    experts = [Expert.load(tmp_path / name / "expert.safetensors") for name in ("whole", "parts")]
    assert experts[0].metadata == experts[1].metadata
    assert all(torch.equal(experts[0].scales[name], experts[1].scales[name]) for name in experts[0].scales)


def test_micro_batches_of_one_equal_one_of_all(tmp_path: Path) -> None:
    states = []
    for tokens in (1, 100_000):
        module = make_module(micro_batch_tokens=tokens, lr=1e-2, objective=Reinforce(kl_coefficient=0.1))
        fit(module, tmp_path / str(tokens), steps=2)
        states.append(flat(module))
    assert (states[0] - 1).abs().max() > 1e-3  # the steps did move it
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=2e-6)


def test_learns_the_letters(tmp_path: Path) -> None:
    """On its own reward, measured on prompts that were not trained on."""
    module = make_module(lr=0.1, total_steps=30)
    data = PromptData(module.task, prompts_per_step=6, steps=30, seed=7)
    validation = Validation(every=30)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=-1, max_steps=30, default_root_dir=tmp_path, logger=False,
        callbacks=[validation], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module.settings = replace(module.settings, clip_norm=1.0)
    trainer.fit(module, data)
    first, last = (sum(validation.reports[step]) for step in (0, 30))
    assert last > first + 2, validation.reports  # of 8


def test_sft_raises_the_likelihood_of_the_reference_answers(tmp_path: Path) -> None:
    module = make_module(objective=SFT(), lr=2e-2)
    module.sampling = Sampling(max_new_tokens=6, temperature=1.0)
    references = [encode_reference(module.lm, example, end_of_turn=True) for example in module.task.split("train")]
    before = float(token_log_probs(module.lm, references).log_probs.sum().detach())
    fit(module, tmp_path)
    assert float(token_log_probs(module.lm, references).log_probs.sum().detach()) > before
    assert "train/log_prob_drift" not in module.metrics  # nothing was sampled


def test_only_the_vectors_are_trained_and_saved(tmp_path: Path) -> None:
    module = make_module()
    before = {
        name: value.clone() for name, value in module.lm.model.state_dict().items() if "parametrization" not in name
    }
    fit(module, tmp_path, steps=2)
    for name, value in before.items():
        assert torch.equal(value, module.lm.model.state_dict()[name]), name
    saved = torch.load(tmp_path / LAST_CHECKPOINT, weights_only=True)
    assert len(saved["state_dict"]) == len(module.adapter.trainable())
    assert sum(value.numel() for value in saved["state_dict"].values()) == sum(p.numel() for p in module.parameters())


def test_training_forward_agrees_with_sampling(tmp_path: Path) -> None:
    module = make_module()
    fit(module, tmp_path, steps=3)
    drifts = [
        float(row["train/log_prob_drift"])
        for row in read_metrics(tmp_path / "metrics.csv").values()
        if "train/log_prob_drift" in row
    ]
    assert drifts
    assert max(drifts) < 1e-3


def test_metrics_of_a_step(tmp_path: Path) -> None:
    fit(make_module(), tmp_path, steps=4)
    rows = read_metrics(tmp_path / "metrics.csv")
    logged = set().union(*rows.values())
    for name in [
        "train/score",
        "train/reward",
        "train/entropy",
        "train/kl",
        "train/grad_norm",
        "train/lr",
        "train/informative_prompts",
        "rollout/length",
        "rollout/truncated",
        "rollout/tokens_per_second",
        "seconds/rollout",
        "seconds/update",
        "scales/std",
        "scales/max_change",
        "val/score",
        "val/stderr",
    ]:
        assert name in logged, name
    with_kl = [step for step, row in sorted(rows.items()) if "train/kl" in row]
    assert len(with_kl) == 2  # steps 0 and 3 of kl_every=3
    assert float(rows[with_kl[0]]["train/kl"]) == pytest.approx(0, abs=1e-6)  # z = 1 is the base


def test_equal_rewards_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Indifferent(LetterTask):
        def score(self, example: Example, text: str) -> float:
            return 0.0

    module = make_module(task=Indifferent())
    with caplog.at_level(logging.WARNING):
        fit(module, tmp_path)
    assert "For 5 steps all completions of a prompt have had the same reward" in caplog.text
    assert torch.equal(flat(module), torch.ones_like(flat(module)))


@pytest.mark.parametrize("kl_every", [0, 1])
def test_a_step_without_a_signal_leaves_z_alone(tmp_path: Path, kl_every: int) -> None:
    """Also after steps that gave AdamW momentum, and also where the KL is computed for the log."""

    class Fading(LetterTask):
        """Scores differ in the first two steps only."""

        asked: list[int] = []  # noqa: RUF012

        def score(self, example: Example, text: str) -> float:
            self.asked.append(0)
            return super().score(example, text) if len(self.asked) <= 24 else 0.0

    Fading.asked = []
    module = make_module(task=Fading())
    module.kl_every = kl_every
    fit(module, tmp_path, steps=2, callbacks=[Checkpoints()])
    moved = flat(module)
    assert not torch.equal(moved, torch.ones_like(moved))
    fit(module, tmp_path, steps=5, ckpt=tmp_path / LAST_CHECKPOINT, callbacks=[Checkpoints()])
    assert torch.equal(flat(module), moved)


@pytest.mark.parametrize("score", [float("nan"), 1.5, -0.1])
def test_a_score_out_of_range_stops_the_run(tmp_path: Path, score: float) -> None:
    class Broken(LetterTask):
        def score(self, example: Example, text: str) -> float:
            return score

    with pytest.raises(ValueError, match=r"score|scored"):
        fit(make_module(task=Broken()), tmp_path, callbacks=[Checkpoints()])


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    fit(make_module(), tmp_path, steps=1)
    with pytest.raises(ValueError, match="trained on 'tiny:llama' and the model loaded is 'tiny:mistral'"):
        fit(make_module(architecture="mistral"), tmp_path, ckpt=tmp_path / LAST_CHECKPOINT)


def test_checkpoint_of_another_adapter_is_refused(tmp_path: Path) -> None:
    fit(make_module(), tmp_path, steps=1)
    with pytest.raises(ValueError, match="adapter settings"):
        fit(make_module(modules="mlp"), tmp_path, ckpt=tmp_path / LAST_CHECKPOINT)


def test_the_trainers_own_clipping_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="gradient clipping"):
        fit(make_module(), tmp_path, gradient_clip_val=1.0)


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    class Worse(LetterTask):
        """Validation scores fall with every validation."""

        calls: list[str] = []  # noqa: RUF012

        def score(self, example: Example, text: str) -> float:
            if example.prompt in {e.prompt for e in self.split("val")}:
                self.calls.append(text)
                return 1.0 / (1 + (len(self.calls) - 1) // 8)
            return super().score(example, text)

    module = make_module(task=Worse())
    validation = Validation(every=1, patience=2)
    trainer = fit(module, tmp_path, callbacks=[validation, Checkpoints()])
    assert trainer.global_step == 2
    assert validation.best_step == 0
    expert = Expert.load(tmp_path / "expert.safetensors")
    assert all(torch.equal(z, torch.ones_like(z)) for z in expert.scales.values())
    assert expert.metadata.step == 0


def test_learning_rate_warms_up_and_decays() -> None:
    settings = OptimizerSettings(warmup_steps=3)
    scale = [settings.scale(step, 13) for step in range(14)]
    assert scale[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert scale[8] == pytest.approx(0.5)
    assert scale[13] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(scale[3:]))


def test_reasons_are_logged_as_shares_of_the_answers_of_the_step(tmp_path: Path) -> None:
    module = make_module(task=GradedLetters())
    fit(module, tmp_path, steps=2, callbacks=[SampleTable(every=1, rows=100)])
    lines = [json.loads(line) for line in (tmp_path / SAMPLES_FILE).read_text().splitlines()]
    for step, row in read_metrics(tmp_path / "metrics.csv").items():
        given = [line["reason"] for line in lines if line["step"] == step]
        assert len(given) == 12
        shares = {name: float(share) for name, share in row.items() if name.startswith("reasons/")}
        assert shares == {
            f"reasons/{reason}": pytest.approx(given.count(reason) / 12, rel=1e-5) for reason in {*given} - {None}
        }
    assert {line["reason"] for line in lines} >= {"partly"}
    assert module.last_step is not None
    assert [[g.score for g in grades] for grades in module.last_step.grades] == [
        pytest.approx(scores.tolist()) for scores in module.last_step.scores
    ]


def test_a_task_without_reasons_logs_none(tmp_path: Path) -> None:
    fit(make_module(), tmp_path, steps=1, callbacks=[SampleTable(every=1)])
    assert not [name for row in read_metrics(tmp_path / "metrics.csv").values() for name in row if "reasons" in name]
    lines = [json.loads(line) for line in (tmp_path / SAMPLES_FILE).read_text().splitlines()]
    assert {line["reason"] for line in lines} == {None}
