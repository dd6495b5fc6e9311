"""What a test sees of a page: requests, the end of answers, changes of a text, what axe finds, its looks."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page


def asked(page: Page) -> list[dict[str, Any]]:
    """The bodies of the chats that the page asks for, from now on."""
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda one: bodies.append(one.post_data_json) if one.url.endswith("/chat/completions") else None)
    return bodies


def answered(page: Page) -> None:
    """Wait until both answers have ended."""
    page.locator("#state", has_text="Both answers are there.").wait_for(state="attached")


def counts_changes(page: Page, element: str) -> Callable[[], int]:
    """From now on, how often what is in an element changes."""
    page.evaluate(
        """id => {
            const element = document.getElementById(id);
            const seen = (window.changes ??= {});
            seen[id] = 0;
            new MutationObserver(() => { seen[id] += 1; }).observe(element, {childList: true, characterData: true});
        }""",
        element,
    )
    return lambda: int(page.evaluate("id => window.changes[id]", element))


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong, in its words; also where something is too small to be hit."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
    found = Axe().run(page, options=options).response
    assert len(found["passes"]) > 20, "the rules were applied"
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


def overflow(page: Page) -> int:
    """How many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def photograph(page: Page, name: str, height: int | None = None) -> None:
    """Where T2_SCREENSHOTS names a folder: what the page looks like, as a PNG of few colors there."""
    if folder := os.environ.get("T2_SCREENSHOTS"):
        image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        image = image.crop((0, 0, image.width, min(image.height, height or image.height)))
        image.quantize(128, dither=Image.Dither.NONE).save(Path(folder) / f"{name}.png", optimize=True)
