"""scripts/pip_settings.py: pip's settings here become one file, and every local path that they name is found."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = ROOT / "scripts" / "pip_settings.py"
spec = importlib.util.spec_from_file_location("pip_settings", SCRIPT)
pip_settings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pip_settings)


def listing(folder) -> str:
    return (
        f":env:.find-links='{folder}/wheels'\n"
        ":env:.default-timeout='180'\n"
        f"global.extra-index-url='file://{folder}/an%20index/simple https://example.org/simple'\n"
        f"global.cert='{folder}/certificates.pem'\n"
        f"install.find-links='{folder}/wheels/more\\n{folder}/missing'\n"
    )


@pytest.fixture
def folder(tmp_path):
    for name in ("wheels/more", "an index/simple"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "certificates.pem").touch()
    return tmp_path


def test_paths_that_exist_are_named_once_and_an_index_with_what_lies_beside_it(folder):
    found = pip_settings.settings(listing(folder))
    assert pip_settings.local_paths(found) == [str(folder / n) for n in ("an index", "certificates.pem", "wheels")]
    assert pip_settings.local_paths(found, [str(folder)]) == [str(folder)]
    assert pip_settings.local_paths([("global", "find-links", "/")]) == []


def test_the_file_says_to_pip_what_the_files_here_say(folder, tmp_path):
    out = tmp_path / "pip.conf"
    found = pip_settings.settings(listing(folder))
    out.write_text("".join(f"{line}\n" for line in pip_settings.file_of(found)))
    command = [sys.executable, "-m", "pip", "config", "list"]
    environment = {"PIP_CONFIG_FILE": str(out), "HOME": str(folder), "XDG_CONFIG_DIRS": str(folder), "PATH": "/bin"}
    read = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    wanted = {one for one in found if one[0] != ":env:"}
    assert wanted <= set(pip_settings.settings(read))


def test_a_line_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"printed 'nothing'; expected: section\.name="):
        pip_settings.settings("nothing")


def test_it_reads_the_settings_of_this_machine(tmp_path):
    out = tmp_path / "pip.conf"
    subprocess.run([sys.executable, str(SCRIPT), str(out)], check=True, capture_output=True)
    assert out.exists()
