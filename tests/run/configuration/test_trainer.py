"""The keys of the trainer that t2 sets itself are refused with what to set instead; Lightning's own pass."""

from __future__ import annotations

import inspect
from typing import Any

import lightning as L
import pytest
import yaml
from conftest import ROOT

from t2.run.configuration.trainer import OWN_KEYS, own_key, trainer_fault, trainer_faults

CPU = yaml.safe_load((ROOT / "conf/trainer/default.yaml").read_text()) | {"max_steps": 25, "default_root_dir": "/run"}


def faults(**changes: Any) -> list[str]:
    return list(trainer_faults({"steps": 25, "paths": {"run": "/run"}, "trainer": CPU | changes}))


def test_the_trainer_of_conf_passes() -> None:
    assert faults() == []
    assert faults(deterministic=True) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"devices": 2}, "one process on one device"),
        ({"devices": True}, "one process on one device"),  # equal to 1
        ({"strategy": "ddp_spawn"}, "one process on one device"),
        ({"num_nodes": 2}, "one process on one device"),
        ({"gradient_clip_val": 1.0}, "set optimizer.clip_norm"),
        ({"accumulate_grad_batches": 4}, "set micro_batch_tokens"),
        ({"enable_checkpointing": True}, "set callbacks.checkpoints.every"),
        ({"log_every_n_steps": 5}, "every step is logged"),
        ({"max_steps": 30}, "set steps instead"),
        ({"default_root_dir": "/tmp"}, "set hydra.run.dir instead"),
    ],
)
def test_what_t2_does_itself_is_refused_with_what_to_set(changes: dict[str, Any], said: str) -> None:
    (fault,) = faults(**changes)
    assert fault.startswith(f"trainer.{next(iter(changes))} is ")
    assert said in fault


def test_several_processes_are_counted() -> None:
    assert faults(strategy="ddp", devices=4, num_nodes=2) == []
    for wrong in (0, "auto", True, [0, 1]):
        (fault,) = faults(strategy="ddp", devices=wrong)
        assert fault == f"trainer.devices is {wrong!r}; allowed with trainer=ddp: at least 1 (an integer)."


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"generation": {"engine": {"dtype": "auto"}}}, "its engine takes dense weights. Use generation=hf."),
        ({"strategy": {"_target_": "any"}}, "strategy= scores the trained expert on the first process alone"),
        ({"generation": {"mode": "merged"}}, "allowed with trainer=fsdp: auto, factored, since no process holds"),
        ({"generation": {"mode": "auto", "dtype": "bfloat16"}}, "allowed with trainer=fsdp: null, since no process"),
        (
            {"callbacks": {"adaptation": {"_target_": "t2.training.adaptation_callback.Adaptation"}}},
            "evaluate.py after",
        ),
    ],
)
def test_what_needs_whole_matrices_is_refused_where_they_are_sharded(part: dict[str, Any], said: str) -> None:
    for strategy, count in (("fsdp", 1), ("ddp", 0)):
        trainer = CPU | {"strategy": strategy, "devices": 2}
        found = list(trainer_faults({"steps": 25, "paths": {"run": "/run"}, "trainer": trainer} | part))
        assert len(found) == count
        assert all(said in fault for fault in found)


def test_every_key_of_the_table_is_one_of_the_trainer() -> None:
    parameters = inspect.signature(L.Trainer).parameters
    assert OWN_KEYS.keys() <= parameters.keys()
    for key in OWN_KEYS:
        assert own_key(key)
    assert own_key("accelerator") is None
    assert list(trainer_fault("accelerator", "gpu")) == []
