"""A stranger's t2 beside this one is named, and no message advises to install it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from t2.cli.main import main
from t2.run.distribution import stranger_beside


def test_a_stranger_is_named_when_a_command_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stranger_beside() is None  # whatever was called so before this project was renamed
    (tmp_path / "t2-3.1.dist-info").mkdir()
    (tmp_path / "t2-3.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: t2\nVersion: 3.1\n")
    (tmp_path / "t2-3.1.dist-info" / "RECORD").write_text("t2/theirs.py,,\n")
    (tmp_path / "t2").mkdir()
    (tmp_path / "t2" / "theirs.py").touch()  # files that are missing do not count from Python 3.12 on
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["t2", "--version"])
    main()
    said = capsys.readouterr().err
    assert said.startswith("warning: The package t2 3.1 of the package index")
    assert "pip uninstall t2" in said


def test_no_message_advises_the_stranger() -> None:
    pages = [path for folder in ("t2", "docs", "conf", "examples", "scripts") for path in (ROOT / folder).rglob("*")]
    for path in (ROOT / "README.md", ROOT / "Makefile", ROOT / "pyproject.toml", *pages):
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".sh", ".sbatch") or path.name == "Makefile":
            assert not re.search(r"(?<![\w-])t2\[\w|pip install t2\b", path.read_text()), path
