"""Sampling ahead: which z samples which step, that it happens meanwhile, and that a resumed run is alike."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from tiny_models import adapt, same_states, tiny
from torch import Tensor
from training_run import STEPS, fit, flat, make_module

from t2.policy.generator import ApartGenerator
from t2.policy.hf import HFGenerator
from t2.run.metrics_file import read_metrics
from t2.training import ahead
from t2.training.ahead import Ahead, ahead_of
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.es import ES
from t2.training.module import ExpertTraining
from t2.training.objectives import RLOO, SFT, Reinforce
from t2.training.ranks import Ranks
from t2.types import Completion, Example, Sampling

CAPPED = RLOO(importance_cap=2.0)


class Apart:
    """Generates with a tiny model of its own, and keeps the states that it was given by the seed of the sampling."""

    def __init__(self, module: ExpertTraining, staleness: int) -> None:
        self.max_staleness, self.sync_seconds = staleness, 0.0
        self.lm, self.adapter = module.lm, module.adapter
        own = tiny()
        self.hf = HFGenerator(own, adapt(own))
        self.state: Mapping[str, Tensor] | None = None
        self.seen: dict[int, Mapping[str, Tensor]] = {}
        self.before: Callable[[], object] = lambda: None
        self.lock = threading.Lock()

    def with_state(self, state: Mapping[str, Tensor]) -> Apart:
        other = object.__new__(Apart)
        vars(other).update(vars(self) | {"state": state})
        return other

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        state = self.adapter.state() if self.state is None else self.state
        if sampling.temperature:  # not in validation
            self.seen[sampling.seed - 7 * 1_000_003] = state
            self.before()
        with self.lock:
            return self.hf.with_state(state).generate(examples, sampling)


class States(Callback):
    """Keeps z as it was before each step."""

    def __init__(self) -> None:
        self.at: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.at.append(pl_module.adapter.state())


def training(staleness: int, objective: Any = CAPPED) -> tuple[ExpertTraining, Apart]:
    """A run of the tiny model whose completions come from another one."""
    module = make_module(objective=objective, lr=2e-2)
    module.generator = apart = Apart(module, staleness)
    module.ahead = ahead_of(apart, objective, module._sample_ahead, module.adapter.state)
    return module, apart


@pytest.mark.parametrize("staleness", [1, 2])
def test_a_step_is_sampled_under_the_z_of_so_many_updates_before(tmp_path: Path, staleness: int) -> None:
    module, apart = training(staleness)
    states = States()
    fit(module, tmp_path, callbacks=[states])
    assert isinstance(apart, ApartGenerator)
    assert not same_states(states.at[0], states.at[-1])
    assert apart.seen.keys() == set(range(STEPS)), "none beyond the last step"
    for step, state in apart.seen.items():
        assert same_states(dict(state), states.at[max(0, step - staleness)]), step
    rows = read_metrics(tmp_path / "metrics.csv")
    assert float(rows[0]["train/importance_ratio_max"]) == pytest.approx(1.0, abs=1e-4)
    assert float(rows[2]["train/importance_ratio_max"]) > 1.001, "the policy has moved meanwhile"


def test_without_staleness_the_run_is_that_of_the_trainers_own_model(tmp_path: Path) -> None:
    apart, plain = training(0)[0], make_module(objective=CAPPED, lr=2e-2)
    assert apart.ahead is None
    fit(apart, tmp_path / "apart", steps=2)
    fit(plain, tmp_path / "plain", steps=2)
    assert torch.equal(flat(apart), flat(plain))


def test_resuming_ends_at_the_same_numbers(tmp_path: Path) -> None:
    whole, first, second = (training(2)[0] for _ in range(3))
    fit(whole, tmp_path / "whole")
    fit(first, tmp_path / "parts", steps=3)
    fit(second, tmp_path / "parts", ckpt=tmp_path / "parts" / LAST_CHECKPOINT)
    assert torch.equal(flat(second), flat(whole))


def test_the_next_step_is_sampled_while_the_trainer_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step's completions wait for the first update to begin, and that update for them."""
    module, apart = training(1)
    updating, sampling, update = threading.Event(), threading.Event(), module._update
    met: list[bool] = []

    def before() -> None:
        if len(apart.seen) == 2:
            met.append(updating.wait(20))
            sampling.set()

    def meeting(*arguments: Any, **named: Any) -> None:
        updating.set()
        met.append(sampling.wait(20))
        update(*arguments, **named)

    apart.before = before
    monkeypatch.setattr(module, "_update", meeting)
    fit(module, tmp_path, steps=2)
    assert all(met)
    assert len(met) == 3
    metrics = module.metrics
    assert 0 <= metrics["seconds/rollout_wait"] < 20
    assert metrics["seconds/weight_sync"] == 0.0
    assert metrics["seconds/forward_backward"] <= metrics["seconds/update"]
    assert metrics["rollout/tokens_per_second"] > 0
    assert "train/mfu" not in metrics, "a CPU's peak is not known"


def test_what_sampling_raises_ends_the_run_and_the_thread(tmp_path: Path) -> None:
    module, apart = training(1)

    def fail() -> None:
        if len(apart.seen) == 3:
            raise ConnectionError("the server is gone")

    apart.before = fail
    with pytest.raises(ConnectionError, match="the server is gone"):
        fit(module, tmp_path)
    assert torch.load(tmp_path / LAST_CHECKPOINT, weights_only=True)["global_step"] == 2
    module.on_train_end()  # as train.py does
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollouts")]


@pytest.mark.parametrize(
    ("objective", "match"),
    [
        (RLOO(), "Set objective.importance_cap, such as 2"),
        (Reinforce(), "Reinforce takes them for its own"),
        (SFT(), "objective SFT cannot use it"),
        (ES(), "objective ES cannot use it"),
    ],
)
def test_an_objective_without_weights_is_refused(objective: Any, match: str) -> None:
    module = make_module()
    with pytest.raises(ValueError, match=match):
        ahead_of(Apart(module, 1), objective, module._sample_ahead, module.adapter.state)
    assert ahead_of(Apart(module, 0), objective, module._sample_ahead, module.adapter.state) is None
    assert ahead_of(module.generator, objective, module._sample_ahead, module.adapter.state) is None


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module, apart = training(1)
    monkeypatch.setattr(ahead.Ranks, "here", lambda: Ranks(0, 2))
    sampler = Ahead(apart, module._sample_ahead, module.adapter.state)
    with pytest.raises(ValueError, match="several processes train"):
        sampler.take(0, module.phases)
