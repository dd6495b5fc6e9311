"""The training step: what it learns, what it checks, and that stopping and going on changes nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import LetterTask
from graded_task import GradedLetters
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tiny_models import same_states
from training_run import each_adapter, fit, flat, make_module

from t2.experts.expert import Expert
from t2.policy.log_probs import TokenLogProbs, token_log_probs
from t2.policy.reference import encode_reference
from t2.run.metrics_file import read_metrics
from t2.run.results import SAMPLES_FILE
from t2.training.callbacks import Checkpoints, Validation
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.objectives import SFT, Reinforce
from t2.training.optimizer import OptimizerSettings
from t2.training.rollout import Loss, Rollout
from t2.training.sample_table import SampleTable
from t2.types import Example, Sampling


@each_adapter
def test_resuming_ends_at_the_same_numbers(tmp_path: Path, settings: dict[str, object]) -> None:
    whole = make_module(**settings)
    fit(whole, tmp_path / "whole")
    first = make_module(**settings)
    fit(first, tmp_path / "parts", steps=3)
    assert not torch.equal(flat(first), flat(whole))
    second = make_module(**settings)
    torch.manual_seed(999)  # whatever the global generator holds must not matter
    fit(second, tmp_path / "parts", ckpt=tmp_path / "parts" / LAST_CHECKPOINT)
    assert torch.equal(flat(second), flat(whole))
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "parts")]
    assert rows[0].keys() == rows[1].keys()
    for step in rows[0]:  # all but the measured seconds
        same = {name for name in rows[0][step] if "second" not in name}
        assert {name: rows[0][step][name] for name in same} == {name: rows[1][step][name] for name in same}, step
    one, other = (Expert.load(tmp_path / name / "expert.safetensors") for name in ("whole", "parts"))
    assert one.metadata == other.metadata
    assert same_states(one.scales, other.scales)


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
    module, validation = make_module(lr=0.1, total_steps=30), Validation(every=30)
    module.settings = replace(module.settings, clip_norm=1.0)
    fit(module, tmp_path, steps=30, prompts=6, logger=False, callbacks=[validation])
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
    trained = module.adapter.trainable()
    assert len(saved["state_dict"]) == len(trained)
    assert sum(value.numel() for value in saved["state_dict"].values()) == sum(p.numel() for p in trained)
    assert not list(module.parameters()), "Lightning moves what it finds"


@dataclass(frozen=True, kw_only=True)
class BreaksAtStepTwo(Reinforce):
    """Its loss is NaN in the third step."""

    losses: list[int] = field(default_factory=list)

    def loss(self, token: TokenLogProbs, rollout: Rollout) -> Loss:
        loss = super().loss(token, rollout)
        self.losses.extend([1] * token.log_probs.requires_grad)  # not of a KL for the log
        return Loss(loss.total * float("nan"), loss.parts) if len(self.losses) == 3 else loss


def test_a_step_that_is_not_finite_ends_the_run_unsaved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, broken = make_module(objective=Reinforce()), make_module(objective=BreaksAtStepTwo())
    fit(whole, tmp_path / "whole", steps=2)
    with pytest.raises(FloatingPointError, match=r"gradient of \d+ of \d+ matrices is NaN"):
        fit(broken, tmp_path / "broken")
    assert torch.equal(flat(broken), flat(whole))
    saved = torch.load(tmp_path / "broken" / LAST_CHECKPOINT, weights_only=True)
    assert (saved["global_step"], "it would stop there again" in caplog.text) == (2, True)
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


METRICS = {
    *("train/score", "train/reward", "train/entropy", "train/kl", "train/grad_norm", "train/lr"),
    *("train/informative_prompts", "rollout/length", "rollout/truncated", "rollout/tokens_per_second"),
    *("seconds/rollout", "seconds/update", "scales/std", "scales/max_change", "val/score", "val/stderr"),
}


def test_metrics_of_a_step(tmp_path: Path) -> None:
    fit(make_module(), tmp_path, steps=4, callbacks=[Validation(every=2), Checkpoints(), SampleTable(every=1)])
    rows = read_metrics(tmp_path / "metrics.csv")
    logged = set().union(*rows.values())
    assert METRICS - logged == set()
    with_kl = [step for step, row in sorted(rows.items()) if "train/kl" in row]
    assert len(with_kl) == 2  # steps 0 and 3 of kl_every=3
    assert float(rows[with_kl[0]]["train/kl"]) == pytest.approx(0, abs=1e-6)  # z = 1 is the base
    drifts = [float(row["train/log_prob_drift"]) for row in rows.values() if "train/log_prob_drift" in row]
    assert drifts
    assert max(drifts) < 1e-3
    assert not [name for name in logged if "reasons" in name]  # the task gives none
    lines = [json.loads(line) for line in (tmp_path / SAMPLES_FILE).read_text().splitlines()]
    assert {line["reason"] for line in lines} == {None}


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


def test_checkpoint_of_another_model_or_adapter_is_refused(tmp_path: Path) -> None:
    fit(make_module(), tmp_path, steps=1)
    for other, message in (
        ({"architecture": "mistral"}, "trained on 'tiny:llama' and the model loaded is 'tiny:mistral'"),
        ({"modules": "mlp"}, "adapter settings"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(make_module(**other), tmp_path, ckpt=tmp_path / LAST_CHECKPOINT)


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
