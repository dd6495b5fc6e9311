"""The page in a headless Chromium (`make test-page`); every test also fails where the page loads from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from servers import served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("T2_CHROMIUM")
PATIENCE_MS = 180_000.0  # a step of the real model takes a while on a busy machine
Open = Callable[..., "Page"]


@pytest.fixture(autouse=True, scope="session")
def _named() -> None:
    if not CHROMIUM:
        pytest.skip("No browser is named: `make test-page` finds or installs one")


@pytest.fixture(scope="session")
def server(_named: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SmolLM2 with the experts that ship."""
    with served(tmp_path_factory.mktemp("server"), "experts=smollm2_135m") as address:
        yield address


@pytest.fixture(scope="session")
def browser(_named: None) -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open an address as a browser of some size and scheme; what went wrong in it is a failure at the end."""
    wrong: list[str] = []
    contexts = []

    def heard(message: Any) -> None:
        # A status of 400 and more is an error to the console, and the matter of some tests.
        if message.type == "error" and "Failed to load resource" not in message.text:
            wrong.append(message.text)

    def open_one(
        address: str, *, width: int = 1120, height: int = 900, ready: str = ".example", **options: Any
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", heard)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(f"{address}/") else wrong.append(one.url))
        page.goto(f"{address}/")
        page.locator(ready).first.wait_for()
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def page(open_page: Open, server: str) -> Page:
    """The page of the real model, with short answers."""
    opened = open_page(server)
    opened.get_by_label("Longest answer").fill("8")
    return opened
