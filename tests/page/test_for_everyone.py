"""The page without a mouse, to a screen reader, in both schemes, on a phone, with a key, and without experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from seen import answered, asked, counts_changes, overflow, photograph, violations
from servers import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

SUM = "State the final answer to the following arithmetic problem: 36 + 27 ="
LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 4


def ask(page: Page) -> None:
    page.get_by_role("textbox", name="Prompt").fill(SUM)
    page.keyboard.press("Control+Enter")
    answered(page)


def focused(page: Page) -> str:
    """The id of what has the focus, or its class; "" where nobody sees that it has it."""
    return str(
        page.evaluate(
            """() => {
                const element = document.activeElement;
                if (getComputedStyle(element).outlineStyle === "none") return "";
                return element.id || element.className || element.localName;
            }"""
        )
    )


def test_the_keyboard_is_enough(open_page: Any, server: str) -> None:
    """Catches: what no key reaches, an order that is not the eye's, a focus that nobody sees."""
    page = open_page(server)
    requests = asked(page)
    page.keyboard.press("Tab")
    assert focused(page) == "skip"
    page.keyboard.press("Enter")
    assert focused(page) == "prompt"
    page.keyboard.type("7 + 8 =")
    page.keyboard.press("Control+Enter")
    answered(page)
    assert requests[0]["messages"] == [{"role": "user", "content": "7 + 8 ="}]

    order = []
    while not order or order[-1] != "weight-reading":
        page.keyboard.press("Tab")
        order.append(focused(page))
        assert len(order) < 30, order
    expected = ["model", "max-tokens", "temperature", "run", "weight-sums", "weight-reading"]
    assert order == ["example"] * order.count("example") + expected
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    assert focused(page) == "back"
    page.keyboard.press("Enter")
    assert focused(page) == "model"
    while focused(page) != "summary":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#heat-table").wait_for()
    page.keyboard.press("Tab")
    assert focused(page) == "scrolls"


def test_a_screen_reader_hears_the_end_and_not_every_token(page: Page) -> None:
    said = counts_changes(page, "state")
    page.locator(".example").first.click()
    page.keyboard.press("Control+Enter")
    page.locator("#adapted-answer[aria-busy=true]").wait_for()
    answered(page)
    assert said() == 2, "that it begins, and both answers"
    texts = [page.locator(f"#{side}-text").inner_text() for side in ("base", "adapted")]
    assert all(text and text in page.locator("#state").inner_text() for text in texts)
    assert page.locator("[aria-busy]").count() == 0
    assert page.locator(":is([aria-live], [role=status], [role=alert]) .text").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Any, server: str, scheme: str) -> None:
    page = open_page(server, color_scheme=scheme)
    assert violations(page) == [], "before anything is asked"
    ask(page)
    page.evaluate("document.activeElement.blur()")
    photograph(page, f"serve_{scheme}")
    page.get_by_text("The numbers as a table").click()
    assert violations(page) == [], "with answers, and the table"
    page.get_by_label("sums", exact=True).fill("0.3")
    page.get_by_role("textbox", name="Prompt").fill("")
    page.keyboard.press("Control+Enter")
    page.locator("#adapted-text .failure").wait_for()
    assert violations(page) == [], "with a mixture by hand, and an error"


def test_a_phone_needs_no_sideways_scrolling(open_page: Any, server: str) -> None:
    page = open_page(server, width=320, has_touch=True)
    assert overflow(page) <= 0
    ask(page)
    page.evaluate("document.activeElement.blur()")
    photograph(page, "serve_phone", height=1700)
    page.get_by_text("The numbers as a table").click()
    page.get_by_label("sums", exact=True).fill("0.3")
    assert (overflow(page), violations(page)) == (0, [])

    body = f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': LONG}}]})}\n\ndata: [DONE]\n\n"
    page.route("**/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.get_by_role("textbox", name="Prompt").fill(LONG)
    page.keyboard.press("Control+Enter")
    page.locator("#base-text", has_text=LONG).wait_for()
    assert overflow(page) <= 0, "with a word that is longer than the window"


def test_who_wants_less_motion_gets_none(open_page: Any, server: str) -> None:
    page = open_page(server, reduced_motion="reduce")
    assert page.locator(".fill").first.evaluate("bar => getComputedStyle(bar).transitionDuration") == "0s"


def test_a_key_is_asked_for_where_the_server_wants_one_and_a_base_is_shown_alone(
    open_page: Any, tmp_path: Path
) -> None:
    """Catches: a page that cannot load without the key, a wrong one that ends it, columns for no experts."""
    with served(tmp_path, "base_model=tiny", "base_model.context_length=8192", key="secret") as address:
        page = open_page(address, ready="#key")
        page.get_by_text("The API key is missing or wrong.").wait_for()
        assert violations(page) == []
        for wrong, says in (("wrong", "The API key is missing or wrong."), ("ключ", "signs of ASCII")):
            page.get_by_label("API key").fill(wrong)
            page.keyboard.press("Enter")
            page.locator("#notice", has_text=says).wait_for()
        page.get_by_label("API key").fill("secret")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_text("This server has no experts").wait_for()
        assert page.locator("#key-form").is_hidden()
        for hidden in ("pass1", "adapted-answer", "expert-section"):
            assert page.locator(f"#{hidden}").is_hidden()
        ask(page)
        page.locator("#base-numbers", has_text="Tokens/s").wait_for()
        assert violations(page) == []
