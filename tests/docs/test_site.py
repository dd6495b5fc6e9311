"""The documentation builds strictly, and its pages load nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.commands
FOREIGN = (
    re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"?https?:"),
    re.compile(r"<link[^>]+rel=\"?(?:stylesheet|preconnect|preload)[^>]+href=\"?https?:"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason='the documentation needs mkdocs: pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    sources = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in site.glob("*.html")} == sources | {"404"}
    assert "How far do runs of the demo differ" in (site / "log.html").read_text()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = [path.read_text() for path in site.glob("**/*.html")]
    assert pages
    assert not [found for page in pages for pattern in FOREIGN for found in pattern.findall(page)]
    assert not any("fonts.g" in page for page in pages)


def test_the_figures_are_there_and_readable_on_dark_pages(site: Path) -> None:
    figures = sorted((site / "figures").glob("*"))
    drawn = [path for path in figures if path.suffix == ".svg"]
    assert [path.name for path in drawn] == ["shared_prompts.svg", "study.svg", "svf.svg", "two_passes.svg"]
    assert all("fill: #ffffff" in path.read_text() for path in drawn)  # a ground of its own
    others = [path for path in figures if path not in drawn]
    shots = ["serve_dark.png", "serve_light.png", "serve_phone.png"]
    measured = ["forgetting_by_gain.png", "gain_by_numbers.png", "growth.png", "movement_by_layer.png"]
    assert [path.name for path in others] == [*measured, *shots]
    assert all(path.stat().st_size < 150_000 for path in others)
