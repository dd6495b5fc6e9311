"""The trainer follows the model's device, and a contradiction is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pretend_device import pretend

from t2.training.device import check_accelerator, ddp_placement, device_of_rank, trainer_placement


@pytest.mark.parametrize(
    ("accelerator", "device"),
    [("auto", "cpu"), ("auto", "cuda"), ("cpu", "cpu"), ("cpu", "auto"), ("gpu", "cuda:1"), ("cuda", "balanced")],
)
def test_what_agrees_is_accepted(accelerator: str, device: str) -> None:
    check_accelerator(accelerator, device)


@pytest.mark.parametrize(("accelerator", "device"), [("cpu", "cuda"), ("gpu", "cpu"), ("gpu", "auto")])
def test_a_contradiction_names_both_keys_and_what_to_do(accelerator: str, device: str) -> None:
    with pytest.raises(ValueError, match=rf"accelerator is '{accelerator}' and base_model.device is '{device}'.*Leave"):
        check_accelerator(accelerator, device)


def test_auto_is_a_gpu_where_there_is_one() -> None:
    with pretend():
        check_accelerator("gpu", "auto")


def test_an_accelerator_that_t2_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'tpu'; allowed: auto, cpu, gpu, cuda"):
        check_accelerator("tpu", "cpu")


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", {"accelerator": "cpu", "devices": 1}),
        ("cuda", {"accelerator": "gpu", "devices": [0]}),
        ("cuda:2", {"accelerator": "gpu", "devices": [2]}),
    ],
)
def test_the_trainer_is_where_the_model_is(device: str, expected: dict[str, object]) -> None:
    assert trainer_placement(torch.device(device)) == expected


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of_rank("auto", 2) == device_of_rank("cuda", 2) == "cuda:1"
    assert device_of_rank("cpu", 8) == "cpu"
    assert ddp_placement(torch.device("cuda:1"))["accelerator"] == "gpu"
    with pytest.raises(ValueError, match=r"trainer\.devices is 4 and torch sees 2 CUDA devices"):
        device_of_rank("cuda", 4)
    for name in ("balanced", "cuda:0"):
        with pytest.raises(
            ValueError, match=f"is '{name}'; allowed with trainer=ddp and trainer=fsdp: cpu, cuda, auto"
        ):
            device_of_rank(name, 2)


def test_the_script_refuses_before_it_loads(run_script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_script("train", "base_model=tiny", "trainer.accelerator=gpu", f"hydra.run.dir={tmp_path}")
    assert "base_model.device is 'cpu'" in capsys.readouterr().out
