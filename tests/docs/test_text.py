"""What README and docs/ say that the code can contradict: messages, links, lengths, figures."""

from __future__ import annotations

import ast
import csv
import re
from pathlib import Path

from conftest import ROOT
from markdown_blocks import PAGES

LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[\w-]*)?\)")


def strings_of_t2() -> str:
    """Every string of the code; f-strings with their values left out, which parts them."""
    scripts = [ROOT / f"{name}.py" for name in ("train", "evaluate", "adapt", "export", "estimate")]
    texts = []
    for path in [*(ROOT / "t2").glob("**/*.py"), *scripts]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_every_message_of_the_failures_page_is_one_of_the_code() -> None:
    rows = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / "failures.md").read_text(), re.M)
    assert len(rows) > 40
    said = strings_of_t2()
    assert not [message for message in rows if message not in said]


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in LINK.findall(page.read_text()):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


def test_every_base_model_is_on_a_page() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    names = [path.stem for path in (ROOT / "conf" / "base_model").glob("*.yaml")]
    assert not [name for name in names if f"`{name}`" not in page and f"base_model={name} " not in page]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def test_no_path_of_a_machine_is_in_a_page() -> None:
    for page in (*PAGES, ROOT / "LOG.md", ROOT / "CHANGELOG.md"):
        assert str(Path.home()) + "/" not in page.read_text(), page


def test_scores_of_the_results_page_are_those_of_the_figure() -> None:
    with (ROOT / "docs" / "data" / "study.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    page = (ROOT / "docs" / "results.md").read_text()
    for system in ("base", "classifier", "uniform", "prompt"):
        (row,) = re.findall(rf"^\| {system} \| (.+) \|$", page, re.M)
        told = [cell.split()[0] for cell in row.split(" | ")]
        assert told == [line["score_percent"] for line in table if line["system"] == system]
