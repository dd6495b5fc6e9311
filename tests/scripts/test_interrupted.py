"""Runs that something happens to, as a user meets them: signals, damaged files, a folder in use, other weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from script_errors import error_of

from t2.run.folder_lock import folder_lock
from t2.run.launch_resume import resume_arguments
from t2.training.callbacks import Validation
from t2.training.checkpoint_file import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, read_checkpoint

pytestmark = pytest.mark.commands
Run = Callable[..., Any]
SMOKE = ("experiment=smoke", "logger=csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [tmp_path_factory.mktemp("finished") / "run"]


@pytest.fixture
def trained(finished: list[Path], tmp_path: Path, run_script: Run) -> Path:
    """A copy of a finished run of two steps."""
    (original,) = finished
    if not original.exists():
        run_script("train", *SMOKE, f"hydra.run.dir={original}")
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def refused(
    run_script: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The one message that a script ends with."""

    def message(*arguments: str) -> str:
        shown = error_of(lambda: run_script(*arguments), caplog, capsys)
        assert "Traceback" not in shown
        return shown

    return message


def test_a_run_that_was_given_more_steps_and_is_stopped_again_goes_on_to_their_number(
    trained: Path, run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Validation, "on_train_batch_start", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_script("train", f"resume={trained}", "steps=3")
    monkeypatch.undo()
    run_script("train", f"resume={trained}")
    assert read_checkpoint(trained / LAST_CHECKPOINT)["global_step"] == 3


def test_what_begins_beside_the_base_is_not_called_the_base(tmp_path: Path, run_script: Run) -> None:
    run_script("train", *SMOKE, "adapter.parametrization=sigmoid_nuclear", f"hydra.run.dir={tmp_path}")
    scores = json.loads((tmp_path / "results.json").read_text())["scores"]
    assert [set(of) for of in scores.values()] == [{"base", "start", "expert"}]


def test_sigterm_ends_a_run_with_143_after_the_step_and_it_goes_on(
    tmp_path: Path, run_script: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 0, `train.py && evaluate.py` would evaluate an unfinished expert."""
    validate = Validation.on_train_batch_start

    def on_train_batch_start(self: Validation, trainer: Any, *rest: Any) -> None:
        validate(self, trainer, *rest)
        if trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Validation, "on_train_batch_start", on_train_batch_start)
    with pytest.raises(SystemExit) as stopped:
        run_script("train", *SMOKE, "steps=4", f"hydra.run.dir={tmp_path}")
    assert stopped.value.code == 143
    assert f"python train.py resume={tmp_path}" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / LAST_CHECKPOINT)["global_step"] == 2
    monkeypatch.undo()
    run_script("train", f"resume={tmp_path}")
    assert (tmp_path / "results.json").is_file()


def test_a_damaged_checkpoint_is_a_warning_and_two_are_one_message(
    trained: Path, run_script: Run, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((trained / "results.json").read_text())["scores"]
    last, previous = trained / LAST_CHECKPOINT, trained / PREVIOUS_CHECKPOINT
    last.write_bytes(last.read_bytes()[:2000])
    run_script("train", f"resume={trained}")
    assert f"{last} is damaged" in capsys.readouterr().out
    assert json.loads((trained / "results.json").read_text())["scores"] == before
    for path in (last, previous):
        path.write_bytes(bytes(3000))
    shown = refused("train", f"resume={trained}")
    assert str(last) in shown
    assert str(previous) in shown


def test_resuming_with_other_weights_is_refused(trained: Path, refused: Callable[..., str]) -> None:
    assert "base_model.seed: was 0, now 1" in refused("train", f"resume={trained}", "base_model.seed=1")
    assert "Did you mean 'steps'" in refused("train", f"resume={trained}", "stepz=4")
    path = trained / ".hydra/config.yaml"  # other weights under the same settings, as when a file was exchanged
    config = OmegaConf.load(path)
    config.base_model.seed = 1
    OmegaConf.save(config, path)
    assert "trained on other weights of that model" in refused("train", f"resume={trained}")


def test_resuming_with_other_questions_is_refused(trained: Path, refused: Callable[..., str]) -> None:
    path = trained / ".hydra/config.yaml"  # other questions under the same settings, as when a file of rows was edited
    config = OmegaConf.load(path)
    config.task.seed = 1
    OmegaConf.save(config, path)
    assert "not those that this run began with (train and val differ)" in refused("train", f"resume={trained}")


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_finished_run_is_not_written_over(trained: Path, refused: Callable[..., str], name: str) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file() and path.name != ".lock"}
    settings = SMOKE if name == "train" else ("base_model=tiny", "limit=2")
    shown = refused(name, *settings, f"hydra.run.dir={trained}")
    assert "expert.safetensors" in shown
    assert "hydra.run.dir=FOLDER" in shown
    assert {path: path.read_bytes() for path in before} == before  # the configuration and the log included


def test_a_folder_in_use_is_not_touched(trained: Path, refused: Callable[..., str]) -> None:
    config = (trained / ".hydra/config.yaml").read_text()
    with folder_lock(trained):
        for arguments in ((f"resume={trained}",), (*SMOKE, "seed=9", f"hydra.run.dir={trained}")):
            shown = refused("train", *arguments)
            assert f"process {os.getpid()} on" in shown
    assert (trained / ".hydra/config.yaml").read_text() == config


def test_a_run_killed_in_its_last_validation_reports_it(
    tmp_path: Path, run_script: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Validation, "on_train_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit):
        run_script("train", *SMOKE, "callbacks.validation.every=5", f"hydra.run.dir={tmp_path}")
    monkeypatch.undo()
    ended: list[int] = []
    end = Validation.on_train_end

    def on_train_end(self: Validation, *rest: Any) -> None:
        end(self, *rest)
        ended.append(max(self.reports))

    monkeypatch.setattr(Validation, "on_train_end", on_train_end)
    run_script("train", f"resume={tmp_path}")
    assert ended == [2]


def test_a_row_that_is_too_long_is_named_before_training(tmp_path: Path, refused: Callable[..., str]) -> None:
    rows = [{"question": f"{n}" + "q" * (5 if n != 7 else 900), "answer": "a\n#### 3"} for n in range(1, 41)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "another", "answer": "#### 1"}))
    files = f"task.data_files={{train:{tmp_path}/rows.jsonl,test:{tmp_path}/test.jsonl}}"
    shown = refused(
        "train", *SMOKE, "task=gsm8k", "task.val_size=5", files, "steps=40", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert "of gsm8k is not usable" in shown
    assert "tokens and 4 are kept for the answer" in shown
    assert not (tmp_path / "run/metrics.csv").exists()


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\xfa", b"a: 1\n\0"])
def test_a_damaged_configuration_is_one_message(tmp_path: Path, content: bytes) -> None:
    for name in (".hydra/config.yaml", str(LAST_CHECKPOINT)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit, match=r"error: .*config\.yaml is damaged"):
        resume_arguments([f"resume={tmp_path}"])
