"""What `skip_finished=true` makes of what an earlier run left in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from trivial_job import Script, kill_sweep

FOLDER = ("hydra.run.dir=run", "skip_finished=true")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.chdir(tmp_path)
    return Script(tmp_path, monkeypatch)


def test_a_finished_run_is_passed_over_and_an_unfinished_one_begun_again(script: Script) -> None:
    assert script("number=2", *FOLDER) == 0
    assert script.begun == [2]
    assert script("number=2", *FOLDER) == 0
    assert script.begun == []
    (Path("run") / "results.json").unlink()
    (Path("run") / "expert.safetensors").write_bytes(b"of a run that was killed")
    assert script("number=2", "hydra.run.dir=run") == 1  # which a new run would write over
    assert script("number=2", *FOLDER) == 0
    assert script.begun == [2]


def test_a_checkpoint_is_gone_on_with(script: Script) -> None:
    seen: list[Any] = []

    def body(cfg: DictConfig) -> Any:
        seen.append(cfg.get("resume"))
        return kill_sweep.job(cfg)

    def killed(cfg: DictConfig) -> Any:
        checkpoint = Path(cfg.paths.run) / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir()
        checkpoint.write_bytes(b"")
        raise ValueError("as if killed")

    assert script(*FOLDER, body=killed) == 1
    assert script("number=1", *FOLDER, body=body) == 1  # of another configuration
    assert script(*FOLDER, body=body) == 0
    assert seen == [str(Path("run").resolve())]


def test_files_without_a_configuration_are_refused(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    (Path("run") / "results.json").write_text("{}")
    assert script(*FOLDER) == 1
    assert "no configuration is saved there" in capsys.readouterr().err
    assert script.begun == []
