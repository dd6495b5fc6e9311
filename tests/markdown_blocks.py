"""The fenced blocks of the project's Markdown files, and what a comment above one says that it needs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from conftest import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^(?:<!-- needs: (?P<needs>[^>]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block, where it stands, and the hardware, files or time that it needs ("" for nothing)."""

    page: str
    line: int
    language: str
    needs: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line of a bash block, split as a shell splits it."""

    block: Block
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the test is called by: its page and the command."""
        return f"{self.block.page}:{self.block.line} {' '.join(self.words)}"


def blocks(language: str) -> list[Block]:
    """All blocks of a language, page by page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start("text")) + 1
                name = str(page.relative_to(ROOT))
                found.append(Block(name, line, language, match["needs"] or "", match["text"]))
    return found


def commands(found: Sequence[Block]) -> list[Command]:
    """Every command of bash blocks; a line may go on after a backslash, and end in a comment."""
    lines = [(block, line) for block in found for line in block.text.replace("\\\n", " ").splitlines()]
    split = [(block, tuple(shlex.split(line, comments=True))) for block, line in lines]
    return [Command(block, words) for block, words in split if words]
