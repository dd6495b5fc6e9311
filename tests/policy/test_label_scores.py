"""Label scores against each prompt and label alone, on architectures that share rows and on those that cannot."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import adapt, original, tiny

import t2.policy.label_scores
import t2.policy.log_probs
from t2.models.language_model import LanguageModel
from t2.policy.label_scores import score_labels
from t2.policy.log_probs import token_log_probs
from t2.policy.prompt_sharing import CHECK_TOKENS, prompts_can_be_shared
from t2.types import Completion, Example

INSTRUCTION = "Which one does it belong to: sums, spelling or something else? "
PROMPTS = [INSTRUCTION + text for text in ("1 + 2", "How is a rather long word like this one spelled?", "N/A", "x")]
LABELS = ("sums", "spelling", "a", "spoon")  # two share tokens, none has the length of another


@pytest.fixture(autouse=True)
def few_prompts_are_enough(monkeypatch):
    monkeypatch.setattr(t2.policy.label_scores, "CHECK_TOKENS", 0)  # so that shared rows are tested on short ones


def naive(lm: LanguageModel, prompts, labels):
    """Each prompt and label by itself, (B, K)."""
    scores = []
    for prompt in prompts:
        for label in labels:
            ids = tuple(lm.tokenizer(label, add_special_tokens=False)["input_ids"])
            alone = Completion(tuple(lm.encode(Example(prompt))), ids, (0.0,) * len(ids), "", "stop")
            with torch.no_grad():
                scores.append(token_log_probs(lm, [alone]).log_probs.sum())
    return torch.stack(scores).view(len(prompts), len(labels))


def check(lm: LanguageModel, prompts=PROMPTS, labels=LABELS) -> None:
    got = score_labels(lm, [Example(prompt) for prompt in prompts], labels)
    torch.testing.assert_close(got, naive(lm, prompts, labels), rtol=0, atol=1e-4)


def runs(lm: LanguageModel, monkeypatch) -> list[tuple[int, int]]:
    """The shapes of all forwards that follow."""
    shapes: list[tuple[int, int]] = []
    inner = lm.model.base_model.forward

    def forward(*args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        return inner(*args, **kwargs)

    monkeypatch.setattr(lm.model.base_model, "forward", forward)
    return shapes


@pytest.mark.parametrize("architecture", ["llama", "llama_bias", "mistral", "qwen2", "qwen3", "gpt2", "gemma2"])
def test_scores_are_those_of_each_prompt_and_label_alone(architecture):
    check(original(architecture))


@pytest.mark.parametrize("architecture", ["llama", "llama_bias", "mistral", "qwen2", "qwen3", "gpt2"])
def test_the_labels_of_a_prompt_share_its_row_where_they_can(architecture, monkeypatch):
    lm = tiny(architecture)
    check(lm)
    shapes = runs(lm, monkeypatch)
    score_labels(lm, [Example(prompt) for prompt in PROMPTS], LABELS)
    assert [rows for rows, _ in shapes] == [1, len(PROMPTS)]  # the instruction, then a row per prompt


@pytest.mark.parametrize(("prompts", "shared"), [(1, False), (40, True)])
def test_rows_are_shared_where_that_saves_more_than_finding_out_whether_they_can_be(prompts, shared, monkeypatch):
    monkeypatch.setattr(t2.policy.label_scores, "CHECK_TOKENS", CHECK_TOKENS)
    lm, asked = tiny(), []
    monkeypatch.setattr(
        t2.policy.label_scores, "prompts_can_be_shared", lambda lm: asked.append(1) or prompts_can_be_shared(lm)
    )
    check(lm, [f"{INSTRUCTION}{n}" for n in range(prompts)], LABELS[:2])
    assert bool(asked) == shared


def test_the_scores_tell_prompts_and_labels_apart():
    scores = score_labels(original(), [Example(prompt) for prompt in PROMPTS], LABELS)
    assert scores.shape == (4, 4)
    assert scores.dtype == torch.float32
    assert score_labels(original(), [], LABELS).shape == (0, 4)
    assert torch.pdist(scores).min() > 1e-2


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("prompts", "labels"),
    [
        (PROMPTS[:1], LABELS),
        (PROMPTS[:1] * 3, LABELS),
        ([PROMPTS[1], PROMPTS[0], PROMPTS[1]], LABELS),
        (PROMPTS, ("sums",)),
        (PROMPTS, ("a", "b", "c")),
        (PROMPTS, ("sum", "sum a", "sum b", "sum")),
        (["1", "12", "123"], LABELS),
    ],
    ids=["one prompt", "one prompt thrice", "not in order", "one label", "one token", "same beginnings", "in another"],
)
def test_odd_prompts_and_labels(architecture, prompts, labels):
    check(original(architecture), prompts, labels)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize(
    "prompts",
    [["abc", "xy", "a longer one"], ["a", "b"], ["abc", "abcdef", "ab"], ["abc", "abc"], ["ab", "ac", "x"]],
    ids=["nothing in common", "one token", "one begins another", "the same", "one apart"],
)
def test_whatever_the_prompts_begin_with(architecture, prompts, monkeypatch):
    lm = original(architecture)
    monkeypatch.setattr(lm, "encode", lambda example, reserve=0: list(example.prompt.encode()), raising=False)
    check(lm, prompts)


texts = st.text("ab ", min_size=1, max_size=12)


@settings(max_examples=40)
@given(st.lists(texts, min_size=1, max_size=6), st.lists(texts.filter(str.strip), min_size=1, max_size=4))
def test_any_prompts_and_labels(prompts, labels):
    check(original(), prompts, labels)


@pytest.mark.parametrize(("tokens", "rows"), [(1, 512), (600, 512), (4096, 1), (4096, 40)])
def test_batches_change_nothing(tokens, rows, monkeypatch):
    monkeypatch.setattr(t2.policy.label_scores, "BATCH_TOKENS", tokens)
    monkeypatch.setattr(t2.policy.log_probs, "CHUNK_TOKENS", rows)
    check(original(), [*PROMPTS, *reversed(PROMPTS)])


def test_the_instruction_runs_once_whatever_the_number_of_batches(monkeypatch):
    lm = tiny()
    check(lm)  # its self-check is done
    monkeypatch.setattr(t2.policy.label_scores, "BATCH_TOKENS", 1)
    shapes = runs(lm, monkeypatch)
    score_labels(lm, [Example(prompt) for prompt in PROMPTS], LABELS)
    (first, *others) = shapes
    assert len(others) == len(PROMPTS)
    assert first[0] == 1
    assert first[1] > len(INSTRUCTION)
    assert max(width for _, width in others) < 100


def test_logits_exist_only_where_a_label_is_predicted(monkeypatch):
    lm, seen = tiny(), []
    check(lm)
    inner = lm.logits
    monkeypatch.setattr(lm, "logits", lambda hidden: seen.append(hidden.shape[0]) or inner(hidden), raising=False)
    score_labels(lm, [Example(prompt) for prompt in PROMPTS], LABELS)
    assert sum(seen) == len(PROMPTS) * sum(map(len, LABELS))


@pytest.mark.parametrize(("tokens", "rows"), [(1000, 512), (100_000, 64)])
def test_logits_and_keys_are_bounded_for_many_prompts(tokens, rows, monkeypatch):
    lm, seen = tiny(), []
    check(lm)
    monkeypatch.setattr(t2.policy.log_probs, "CHUNK_TOKENS", rows)
    monkeypatch.setattr(t2.policy.label_scores, "BATCH_TOKENS", tokens)
    inner, shapes = lm.logits, runs(lm, monkeypatch)
    monkeypatch.setattr(lm, "logits", lambda hidden: seen.append(hidden.shape[0]) or inner(hidden), raising=False)
    score_labels(lm, [Example(INSTRUCTION + "x" * (7 * i % 60)) for i in range(60)], LABELS)
    assert max(seen) <= rows
    shared = shapes[0][1]
    assert max(prompts * (shared + width) for prompts, width in shapes[1:]) <= tokens


def test_a_label_is_tokenized_as_an_answer_that_begins_a_turn(monkeypatch):
    lm = original(chat_template=False)  # a tokenizer that puts BOS before plain text
    check(lm)
    assert lm.tokenizer("a")["input_ids"] != lm.tokenizer("a", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("state", ["disabled", "merged"])
def test_the_adapter_is_scored_in_its_mode(state):
    lm = tiny()
    before = score_labels(lm, [Example("x")], LABELS)
    svf = adapt(lm)
    assert not score_labels(lm, [Example("x")], LABELS).requires_grad
    svf.load({name: torch.linspace(0.5, 1.5, len(s)) for name, s in svf.singular_values.items()})
    with getattr(svf, state)():
        check(lm)
        same = torch.allclose(score_labels(lm, [Example("x")], LABELS), before, atol=1e-4)
    assert same == (state == "disabled")


def test_attention_that_is_written_out_takes_a_tree_mask_too(caplog):
    lm = tiny()
    lm.model.set_attn_implementation("eager")  # adds its mask to the scores, so a bool one has to become numbers
    with caplog.at_level(logging.WARNING):
        check(lm)
    assert not caplog.records


@pytest.mark.parametrize(
    ("architecture", "message"),
    [("llama", "Prompts are not shared"), ("mistral", "sliding window of Mistral")],
    ids=["no tree mask", "a window shorter than a prompt"],
)
def test_where_prompts_cannot_be_shared_rows_are_plain_and_it_says_so_once(architecture, message, caplog, monkeypatch):
    lm = tiny(architecture)
    honest = type(lm).hidden_states

    def strict(self, ids, mask, *others, **cache):
        if mask.ndim == 4:
            raise ValueError("masks have two dimensions here")
        return honest(self, ids, mask, *others, **cache)

    if architecture == "mistral":
        lm.model.config.sliding_window = 24
    else:
        monkeypatch.setattr(type(lm), "hidden_states", strict)
    with caplog.at_level(logging.WARNING):
        check(lm)
        check(lm)
    assert sum(message in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("labels", "message"), [((), "no labels to score"), (("a", ""), "'' has no token"), ((" ",), "' ' has no token")]
)
def test_labels_that_cannot_be_scored_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        score_labels(original(), [Example("x")], labels)


def test_a_prompt_that_leaves_no_room_for_a_label_is_refused():
    lm = original()
    room = lm.context_length - len(lm.encode(Example("")))
    score_labels(lm, [Example("x" * (room - 8))], ["spelling"])
    with pytest.raises(ValueError, match="8 are kept for the answer"):
        score_labels(lm, [Example("x" * (room - 7))], ["spelling"])
