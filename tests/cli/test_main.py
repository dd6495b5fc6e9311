"""The command t2: what it shows, and that an installed copy needs no checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import t2
from t2.cli.main import ABOUT, BODIES, listing, main
from t2.run.places import CONF, is_checkout

pytestmark = pytest.mark.commands


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["t2", *words])
    main()
    return capsys.readouterr().out


def test_it_says_what_it_can_do(monkeypatch, capsys) -> None:
    shown = told(monkeypatch, capsys)
    others = {"list", "lm_eval"}
    assert all(f"  {name} " in shown for name in (*BODIES, *others))
    assert BODIES.keys() | others == ABOUT.keys()
    assert told(monkeypatch, capsys, "--version").strip() == t2.__version__
    with pytest.raises(SystemExit, match="'trian' is no command of t2"):
        told(monkeypatch, capsys, "trian")


def test_the_rest_of_a_command_line_is_the_harness_own_and_without_it_there_is_a_sentence(monkeypatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r'pip install "transformer2\[harness\]"'):
        told(monkeypatch, capsys, "lm_eval", "--model", "t2")


def test_a_listing_has_every_choice_with_the_first_line_of_its_file(monkeypatch, capsys) -> None:
    shown = told(monkeypatch, capsys, "list", "strategy", "strategy/search")
    choices = [line.split()[0] for line in shown.splitlines() if line.startswith("  ")]
    files = [path.stem for group in ("strategy", "strategy/search") for path in sorted((CONF / group).glob("*.yaml"))]
    assert choices == files
    assert "  uniform          Every expert with mixing weight 1/K" in shown
    everything = listing(CONF, [])
    assert all(f"{group.name}=" in everything for group in CONF.iterdir() if group.is_dir() and [*group.glob("*.yaml")])
    with pytest.raises(SystemExit, match=r"no group 'strategies'; allowed: .*strategy"):
        listing(CONF, ["strategies"])


@pytest.mark.parametrize("command", ["train", "adapt"])
def test_help_imports_no_torch(command: str) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); import t2.cli.main as m; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{command} is powered by Hydra.")
    assert done.stdout.rstrip().endswith("False")


@pytest.mark.parametrize("words", ["train.py --help", "-c 'from t2.cli.main import main; main()' list"])
def test_a_reader_that_has_seen_enough_is_no_error(words: str) -> None:
    typed = f"{sys.executable} {words} | true"
    done = subprocess.run(["bash", "-c", typed], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_shell_completes_choices() -> None:
    line = "python train.py task=gc"
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    words = (sys.executable, "train.py", "-sc", "query=bash")
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["task=gcd", "task=gcd_30"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as an installer leaves it, and the dependencies that are there already."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("transformer2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, where: Path, *words: str, code: str = "from t2.cli.main import main; main()") -> str:
    # Without the editable copy of the environment: site-packages are added as a folder, whose .pth files do not count.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), sysconfig.get_path("purelib")])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import t2; print(t2.__file__); {code}", *words],
        cwd=where, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(installed))
    return done.stdout


OWN_TASK = """
from dataclasses import dataclass

from t2.tasks.form import Form
from t2.types import Example


@dataclass
class Parity:
    name: str
    max_new_tokens: int
    form = Form("Reply with even or odd.", "It is")

    def split(self, split):
        first = {"train": 0, "val": 20, "test": 30}[split]
        return [Example(prompt=f"{n}?", answer=("even", "odd")[n % 2]) for n in range(first, first + 10)]

    def score(self, example, text):
        return float(text.strip() == example.answer)

    def chance(self, example):
        return {"even": 0.5}
"""


def test_an_installed_copy_trains_anywhere_on_a_task_of_the_users(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_TASK)
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "parity.yaml").write_text("_target_: own.Parity\nname: parity\nmax_new_tokens: 3\n")
    shown = run(
        installed, tmp_path, "train", "--config-dir", "conf", "experiment=smoke", "task=parity", "logger=csv",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert (tmp_path / "run" / "expert.safetensors").is_file()
    assert re.search(r"Next: t2 evaluate --config-dir \S+conf task=parity base_model=tiny expert=\S+run\n", shown)
    assert '"git_commit": null' in (tmp_path / "run" / "results.json").read_text()


def test_an_installed_copy_finds_the_experts_that_ship(installed: Path, tmp_path: Path) -> None:
    code = "from t2.experts.pool import ExpertPool; print(ExpertPool.load('shipped:experts/smollm2_135m').domains)"
    assert "reading" in run(installed, tmp_path, code=code)


def test_this_is_a_checkout() -> None:
    assert is_checkout()
    assert CONF == ROOT / "conf"
