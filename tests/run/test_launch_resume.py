"""The command line that goes on with a run: files of the groups that may change, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from t2.run.launch_overrides import composed
from t2.run.launch_resume import resume_arguments

CONF = ROOT / "conf"
STARTED = ["base_model=tiny", "trainer=ddp", "trainer.num_nodes=2", "+trainer.max_time=1:0"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of an interrupted run, whose name Hydra reads as it is in quotes alone."""
    folder = tmp_path / "a=1, it's b"
    for part in (".hydra", "checkpoints"):
        (folder / part).mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    OmegaConf.save(composed(CONF, "train", STARTED), folder / ".hydra" / "config.yaml")
    return folder


def going_on(run: Path, *words: str) -> DictConfig:
    """The configuration of the run with further words."""
    arguments = resume_arguments([f"resume={run}", *words])
    assert arguments is not None
    return composed(run / ".hydra", "config", [one for one in arguments if not one.startswith("--")], script="train")


def test_a_folder_is_read_with_and_without_quotes(run: Path) -> None:
    assert going_on(run).resume == str(run)
    plain = resume_arguments([f"resume={run}"])
    assert resume_arguments([f'resume="{run}"', f'hydra.run.dir="{run}"']) == plain


def test_a_further_process_reads_the_command_line_of_the_first(run: Path) -> None:
    first = resume_arguments(["steps=3", "--config-dir", "conf", f"resume={run}", "trainer=ddp"])
    assert first is not None
    again = resume_arguments([*first, f'hydra.run.dir="{run}"', "hydra.job.name=x"])
    assert again is not None
    assert (again[:4], again[-1]) == (first[:4], "hydra.job.name=x")
    assert get_args_parser().parse_args(again).overrides == again[4:]


@pytest.mark.parametrize(
    ("words", "devices", "nodes", "strategy"),
    [
        ((), 2, 2, "ddp"),
        (("trainer=default",), 1, None, "auto"),
        (("trainer.devices=4", "trainer=fsdp"), 4, 1, "fsdp"),
    ],
)
def test_a_trainer_is_chosen_anew(run: Path, words: tuple[str, ...], devices: int, nodes: int, strategy: str) -> None:
    trainer = going_on(run, *words).trainer
    assert (trainer.devices, trainer.get("num_nodes"), trainer.strategy) == (devices, nodes, strategy)
    assert trainer.max_time == "1:0", "what else the run was started with stays"


@pytest.mark.parametrize(
    ("words", "loggers"),
    [(("logger=none",), set()), (("logger=null",), set()), (("logger=wandb", "logger.wandb.tags=[a]"), {"wandb"})],
)
def test_loggers_are_chosen_anew(run: Path, words: tuple[str, ...], loggers: set[str]) -> None:
    chosen = OmegaConf.to_container(going_on(run, *words), resolve=False)["logger"] or {}  # type: ignore[index,call-overload]
    assert set(chosen) == loggers
    if loggers:
        assert (chosen["wandb"]["save_dir"], chosen["wandb"]["tags"]) == ("${paths.run}", ["a"])
        resumed = going_on(run, "logger=none")
        assert not resumed.logger


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("task=gcd", "task=gcd: resume=.* Leave task=gcd out"),
        ("paths=default", "of which logger and trainer alone can be chosen anew"),
        ("hydra/launcher=slurm", "of which logger and trainer alone"),
        ("trainer=dpp", "Did you mean 'ddp'"),
        ("hydra.run.dir=elsewhere", "goes on in that run's folder. Leave hydra.run.dir out"),
    ],
)
def test_other_choices_and_folders_are_refused(run: Path, word: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        resume_arguments([f"resume={run}", word])
