"""The Python blocks of README and docs/ run, and print what the page says they print."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from markdown_blocks import PAGES, Block, blocks

# Those that begin with a path: test_extending.py; of a server: tests/serving/test_app.py; of verifiers: tests/harness;
# of llama.cpp: tests/experts/test_gguf_in_llama_cpp.py.
ELSEWHERE = (
    "a server that runs",
    "verifiers, which lives in an environment of its own",
    "llama.cpp, which lives in an environment of its own",
)
BLOCKS = [block for block in blocks("python") if not block.text.startswith("# t2/") and block.needs not in ELSEWHERE]
PAGES_WITH_BLOCKS = list(dict.fromkeys(block.page for block in BLOCKS if not block.needs))


def run(block: Block, names: dict[str, object]) -> None:
    exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / block.page), "exec"), names)


@pytest.mark.parametrize("page", PAGES_WITH_BLOCKS)
def test_the_blocks_of_a_page_run_in_their_order(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [block for block in blocks("text") if block.page == page]
    names: dict[str, object] = {}
    for block in (one for one in BLOCKS if one.page == page):
        assert not block.needs, f"{page}:{block.line}: a page's blocks need the same"
        run(block, names)
        printed = capsys.readouterr().out
        end = block.line + block.text.count("\n")
        following = [output for output in outputs if output.line == end + 3]  # fence, empty line, fence
        if following:
            assert printed == following[0].text
        else:
            assert printed


@pytest.mark.embedded
@pytest.mark.smoke
@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.needs], ids=lambda one: one.page)
def test_the_blocks_that_need_a_model_run(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert block.needs == "embedded model"
    (tmp_path / "experts").symlink_to(ROOT / "experts")
    monkeypatch.chdir(tmp_path)
    run(block, {})
    printed = capsys.readouterr().out.strip()
    assert printed
    last = block.text.rstrip().splitlines()[-1]
    if last.startswith("# "):  # what the block says that it prints
        assert printed == last[2:]


def test_every_page_is_looked_at() -> None:
    assert {"README.md", "docs/one-gpu.md", "docs/quickstart.md"} <= {block.page for block in BLOCKS}
    assert all(page.is_file() for page in PAGES)
