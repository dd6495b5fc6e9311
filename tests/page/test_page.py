"""What the page does with the real model: two passes side by side, weights by hand, errors, a heat map."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from seen import answered, asked, counts_changes

if TYPE_CHECKING:
    from playwright.sync_api import Page

SUM = "State the final answer to the following arithmetic problem: 36 + 27 ="


def test_a_prompt_gets_bars_and_two_answers_that_stream(page: Page, server: str) -> None:
    """Catches: chunks that are lost or that only show at the end, bars of another scale, weights of no choice."""
    requests = asked(page)
    page.get_by_role("textbox", name="Prompt").fill(SUM)
    pieces = counts_changes(page, "adapted-text")
    page.get_by_role("button", name="Answer", exact=True).click()
    answered(page)
    assert [(one["model"], one["stream"], "t2" in one) for one in requests] == [
        ("base", True, False),
        ("classifier", True, False),
    ]
    assert requests[0]["seed"] == requests[1]["seed"]
    for side, model in (("base", "base"), ("adapted", "classifier")):
        plain = {**requests[0], "model": model, "stream": False, "stream_options": None}
        whole = httpx.post(f"{server}/v1/chat/completions", json=plain, timeout=180).json()
        assert page.locator(f"#{side}-text").inner_text() == whole["choices"][0]["message"]["content"]
    assert pieces() > 3, "text came piece by piece"

    found = whole["t2"]
    assert found["label"] == "sums"
    widths = page.locator("#likelihoods .bar").evaluate_all(
        "bars => bars.map(bar => bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx([found["scores"][name] for name in ("sums", "reading", "other")], abs=0.02)
    assert page.locator("#likelihoods .chosen .name").all_inner_texts() == ["sums"]
    assert [page.get_by_label(name, exact=True).input_value() for name in ("sums", "reading")] == ["1", "0"]
    numbers = page.locator("#adapted-numbers dt").all_inner_texts()
    assert numbers == ["Pass 1", "Pass 2", "First token", "Tokens", "Tokens/s"]
    assert page.locator("#base-numbers dt").all_inner_texts() == numbers[1:]


def test_a_slider_sets_the_mixture_by_hand_and_a_button_goes_back(page: Page) -> None:
    """Catches: pass 1 that still chooses, a weight that is not sent, a mixture by hand that stays for ever."""
    requests = asked(page)
    page.get_by_role("textbox", name="Prompt").fill(SUM)
    page.get_by_label("reading", exact=True).fill("0.4")
    page.get_by_text("Set by hand: pass 1 does not run.").wait_for()
    page.get_by_role("button", name="Answer", exact=True).click()
    answered(page)
    assert requests[-1]["t2"] == {"mixing_weights": {"sums": 0, "reading": 0.4}}
    assert page.locator("#adapted-by").inner_text() == "by hand → reading 0.40"
    assert page.get_by_label("reading", exact=True).input_value() == "0.4"
    assert page.locator("#likelihoods .value").all_inner_texts() == ["–"] * 3

    page.get_by_role("button", name="Back to classifier").click()
    assert page.locator("#back").is_hidden()
    page.get_by_label("Pass 1 by").select_option("sums")
    page.get_by_role("button", name="Answer", exact=True).click()
    answered(page)
    assert (requests[-1]["model"], "t2" in requests[-1]) == ("sums", False)
    page.get_by_text("sums is applied to every prompt.").wait_for()


def test_examples_of_each_domain_fill_the_prompt(page: Page) -> None:
    given = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "serve.yaml").examples)
    buttons = page.locator(".example")
    assert buttons.locator("b").all_inner_texts() == [domain for domain, all_of in given.items() for _ in all_of]
    for number, prompt in enumerate(prompt for all_of in given.values() for prompt in all_of):
        buttons.nth(number).click()
        assert page.get_by_role("textbox", name="Prompt").input_value() == prompt


@pytest.mark.parametrize(
    ("prompt", "tokens", "says"),
    [
        ("", "8", "the last one is empty. Give a question."),
        ("Hello", "100000", "Lower max_tokens, or shorten the prompt."),
    ],
)
def test_what_the_server_refuses_is_shown_in_its_own_sentence(page: Page, prompt: str, tokens: str, says: str) -> None:
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_label("Longest answer").fill(tokens)
    page.get_by_role("button", name="Answer", exact=True).click()
    page.locator("#state", has_text=says).wait_for(state="attached")
    for side in ("base", "adapted"):
        assert says in page.locator(f"#{side}-text .failure").inner_text()


def test_a_server_that_is_gone_is_said(page: Page) -> None:
    """Catches: a page that waits for ever, or that shows a browser's own words."""
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("textbox", name="Prompt").fill("Hello")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.locator("#adapted-text", has_text="The server does not answer. Is it still running?").wait_for()


def test_a_stream_that_ends_in_an_error_or_too_soon_keeps_its_text(page: Page) -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "Half of"}}]}
    ends = {"base": f"data: {json.dumps({'error': {'message': 'Ask for fewer tokens.'}})}\n\n", "classifier": ""}

    def answer(route: Any) -> None:
        body = f"data: {json.dumps(first)}\n\n" + ends[route.request.post_data_json["model"]]
        route.fulfill(content_type="text/event-stream", body=body)

    page.route("**/v1/chat/completions", answer)
    page.get_by_role("textbox", name="Prompt").fill("Hello")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.locator("#base-text", has_text="Half of").get_by_text("Ask for fewer tokens.").wait_for()
    page.locator("#adapted-text", has_text="Half of").get_by_text("broke off before its end").wait_for()


def test_stop_ends_both_answers_and_frees_their_places(page: Page, server: str) -> None:
    page.get_by_role("textbox", name="Prompt").fill("Tell me a long story about the sea.")
    page.get_by_label("Longest answer").fill("500")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.locator("#adapted-text", has_text=" ").wait_for()
    page.get_by_role("button", name="Stop").click()
    for side in ("base", "adapted"):
        page.locator(f"#{side}-text .failure", has_text="Stopped.").wait_for()
    assert page.get_by_role("button", name="Stop").is_disabled()
    for _ in range(100):
        if "t2_running_samples 0.0" in httpx.get(f"{server}/metrics").text:
            return
        page.wait_for_timeout(200)
    raise AssertionError("the server still decodes")


def test_the_heat_map_and_its_table_are_the_servers_numbers(page: Page, server: str) -> None:
    """Catches: rows and columns that are exchanged, another expert's map, a scale that is upside down."""
    page.get_by_label("Expert", exact=True).select_option("reading")
    page.get_by_role("img", name="Heat map of the expert reading").wait_for()
    sent = httpx.get(f"{server}/v1/t2/experts/reading").json()
    assert page.locator("#heat-table thead th").all_text_contents() == ["layer", *sent["modules"]]
    rows = page.locator("#heat-table tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.children].map(c => c.textContent))"
    )
    assert [[float(value) for value in row] for row in rows] == [
        [layer, *(pytest.approx(value, rel=0.06) for value in values)]
        for layer, values in zip(sent["layers"], sent["mean_abs"], strict=True)
    ]
    shares = page.locator(".cell").evaluate_all(
        "all => all.map(cell => parseFloat(cell.style.getPropertyValue('--share')))"
    )
    flat = [row[column] for column in range(len(sent["modules"])) for row in sent["mean_abs"]]
    assert (shares[flat.index(max(flat))], shares[flat.index(min(flat))]) == (100, 0)
    page.locator(".cell").nth(3).hover()
    assert page.locator("#heat-readout").inner_text().startswith(f"Layer 3, {sent['modules'][0]}: ")
