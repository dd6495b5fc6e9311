"""A run's folder: one job at a time, and nothing of an earlier run is written over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from t2.experts.content import ADAPTER_FILE
from t2.experts.expert import EXPERT_FILE
from t2.experts.mixture_file import MIXTURE_FILE
from t2.run.folder_lock import KEPT_FILES, LOCK_FILE, check_new, folder_lock
from t2.run.results import CENTROIDS_FILE

HOLD = """
import sys, time
from pathlib import Path
from t2.run.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_job_is_told_who_holds_the_folder_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=rf"process {holder.pid} on .*hydra\.run\.dir"), folder_lock(tmp_path):
            pytest.fail("locked twice")
        holder.send_signal(signal.SIGKILL)
    with folder_lock(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / LOCK_FILE).read_text()


def test_the_lock_is_released_with_the_block_also_by_an_error_and_not_held_by_a_fork(tmp_path: Path) -> None:
    with pytest.raises(KeyError), folder_lock(tmp_path):
        raise KeyError
    with folder_lock(tmp_path):
        pid = os.fork()
        if pid == 0:  # else a child that outlives a killed parent would hold its lock
            held = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
            os._exit(int(str(tmp_path / LOCK_FILE) in held))
        assert os.waitpid(pid, 0)[1] == 0
    with folder_lock(tmp_path):
        pass


def test_leftovers_of_killed_writes_go(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in (".results.json.x.part", "checkpoints/.last.ckpt.y.part", "kept.part"):
        (tmp_path / name).touch()
    with folder_lock(tmp_path):
        assert not list(tmp_path.rglob(".*.part"))
        assert (tmp_path / "kept.part").exists()


@pytest.mark.parametrize("name", dict.fromkeys((*KEPT_FILES, EXPERT_FILE, ADAPTER_FILE, MIXTURE_FILE, CENTROIDS_FILE)))
def test_a_folder_with_files_of_an_earlier_run_is_refused(tmp_path: Path, name: str) -> None:
    check_new(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=rf"{name} of an earlier run.*hydra\.run\.dir=FOLDER.*delete it"):
        check_new(tmp_path)
