"""scripts/growth.sh gives commands that compose, each of the tasks that are known by then; none of them runs here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

pytestmark = pytest.mark.commands
RECORDER = """#!/bin/sh
for word; do case $word in hydra.run.dir=*|resume=*) run=${word#*=} ;; esac; done
mkdir -p "$run"
case $1 in
adapt.py) touch "$run/centroids.safetensors" ;;
*) touch "$run/expert.safetensors" "$run/results.json" ;;
esac
exec %s -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" >> %s
"""


def commands(tmp_path: Path, *, anew: bool = False) -> list[list[str]]:
    """The words of every command that the script has given for four experts, or `anew` those of this time alone."""
    log = tmp_path / "commands"
    if anew:
        log.unlink()
    log.touch()
    recorder = tmp_path / "python"
    recorder.write_text(RECORDER % (sys.executable, log))
    recorder.chmod(0o755)
    about = {**os.environ, "PYTHON": str(recorder), "EXPERTS": "4", "ORACLE": "true"}
    words = ["scripts/growth.sh", str(tmp_path / "growth"), "7", "base_model=tiny"]
    subprocess.run(words, check=True, cwd=ROOT, env=about, timeout=120)
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_pool_of_four_is_made_and_scored_on_what_it_knows(tmp_path: Path) -> None:
    given = commands(tmp_path)
    composed: dict[str, DictConfig] = {}
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for script, *words in given:
            folder = next(word for word in words if word.startswith("hydra.run.dir=")).rpartition("/")[2]
            composed[folder] = compose(script.removesuffix(".py"), overrides=words)
    assert all(one.seed == 7 for one in composed.values())
    assert composed["sequence_2"].start_from.endswith("growth/expert_1")
    assert composed["sequence_4"].start_from.endswith("growth/sequence_3")
    assert composed["sequence_3"].task.name == composed["expert_3"].task.name == "subtract2"
    assert composed["joint"].steps == 4 * composed["expert_1"].steps
    assert len(composed["joint"].task.tasks) == 4
    assert composed["score_own_2"].benchmarks[composed["score_own_2"].only].name == composed["expert_2"].task.name
    assert composed["score_own_2"].expert.endswith("growth/expert_2")
    for size in (3, 4):
        pool = composed[f"score_pool_{size}"]
        known = {name for name in pool.benchmarks if name != "benchmark_domains"}
        assert len(known) == size
        assert composed[f"centroids_{size}"].task.domains.keys() == known
        assert {path.stem for path in Path(pool.experts.experts).glob("*")} == {*known, "centroids"}
        assert pool.singles is (size == 4)
        assert composed[f"score_sequence_{size}"].expert.endswith(f"/sequence_{size}")
    assert commands(tmp_path) == given  # in the log of the first time: nothing was made again


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    commands(tmp_path)
    begun, validated = (tmp_path / "growth" / name for name in ("expert_2", "expert_3"))
    (begun / "checkpoints").mkdir()
    (begun / "checkpoints" / "last.ckpt").touch()
    for folder in (begun, validated):
        (folder / "results.json").unlink()
    given = commands(tmp_path, anew=True)
    assert given[0] == ["train.py", f"resume={begun}"]
    assert given[1][-1] == f"hydra.run.dir={validated}"
    assert len(given) == 2
