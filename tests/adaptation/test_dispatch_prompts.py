"""Dispatch by prompt: under which weights, with which solved examples, and what is refused."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_models import same_states

import t2.adaptation.dispatch
from t2.adaptation.dispatch import CONTENT_FREE, PromptDispatch, boxed_example
from t2.adaptation.strategy import PooledModel
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.policy.label_scores import score_labels
from t2.tasks.dispatch import Dispatch, dispatch_example
from t2.types import OTHER, Example, Sampling
from tests.adaptation.dispatch_setup import DOMAINS, QUESTIONS, Scripted, choose, pooled

# What is asked, under which weights


def softmax_scores(model: PooledModel) -> list[list[float]]:
    """The labels' calibrated probabilities with the adapter in its present mode."""
    asked = [dispatch_example(question, DOMAINS) for question in (*(e.prompt for e in QUESTIONS), CONTENT_FREE)]
    scores = score_labels(model.lm, asked, (" math", " words", " other"))
    return torch.softmax(scores[:-1] - scores[-1], dim=1).tolist()


def test_scores_are_those_of_the_base_whatever_the_adapter_has_learned():
    model = pooled()
    with model.adapter.disabled():
        expected = softmax_scores(model)
    model.adapter.load(model.pool.experts["math"].scales)
    for choice, row in zip(choose(PromptDispatch(), model), expected, strict=True):
        assert list(choice.scores.values()) == pytest.approx(row, abs=1e-4)


def test_the_dispatch_expert_applies_while_the_classifier_scores():
    model = pooled()
    before = model.adapter.state()
    found = choose(PromptDispatch(expert="dispatch"), model)
    assert same_states(model.adapter.state(), before)
    assert model.adapter.mode.name == "factored"
    assert found != choose(PromptDispatch(), model)
    model.adapter.load(model.pool.dispatch.scales)
    with model.adapter.merged():
        expected = softmax_scores(model)
    for choice, row in zip(found, expected, strict=True):
        assert list(choice.scores.values()) == pytest.approx(row, abs=1e-4)


def test_the_classifier_is_asked_what_it_was_trained_on(planted, letter_task):
    task = Dispatch({"words": letter_task, "math": Sums()}, descriptions=DOMAINS, train_size=3, val_size=2, test_size=2)
    trained = task.split("train")
    asked = planted([[0.0, 0.0, 0.0]] * len(trained))
    questions = [Example(one.metadata["question"], system="be brief", response_prefix="So") for one in trained]
    choose(PromptDispatch(expert="dispatch", calibrate=False), examples=questions)
    assert asked == [[one.prompt for one in trained]]


class Sums:
    """A task of another domain."""

    name, max_new_tokens = "sums", 4

    def split(self, split):
        return [Example(f"{split} {i} + 1 =", answer="2") for i in range(5)]

    def score(self, example, text):
        return 0.0


def test_a_pool_without_a_dispatch_expert_has_no_classifier():
    model = PooledModel(pooled().generator, ExpertPool(pooled().pool.experts))
    with pytest.raises(ValueError, match=r"'prompt' applies the pool's dispatch expert.*experiment=experts/dispatch"):
        choose(PromptDispatch(expert="dispatch"), model)
    assert len(choose(PromptDispatch(), model)) == 3


def test_generate_asks_the_base_once_for_all_and_shows_solved_boxes():
    scripted = Scripted(pooled(), ["", "", ""])
    model = PooledModel(scripted, pooled().pool)
    choose(PromptDispatch("generate"), model)
    ((asked, sampling),) = scripted.asked
    assert scripted.state == {}
    assert asked == [boxed_example(example.prompt, DOMAINS) for example in QUESTIONS]
    assert sampling.temperature == 0.0
    assert r"\boxed{category}" in asked[0].prompt
    assert "- math: questions about math\n- words: questions about words\n- other: anything else\n" in asked[0].prompt
    choose(PromptDispatch("generate", examples=SHOTS, shots=1), model)
    assert "Question: 1 + 2\nCategory: \\boxed{math}\n\n" in scripted.asked[1][0][0].prompt


def test_generate_answers_as_the_base_model_does(monkeypatch):
    model, texts = pooled(), []
    monkeypatch.setattr(t2.adaptation.dispatch, "boxed_label", lambda text, domains: texts.append(text) or OTHER)
    model.adapter.load(model.pool.experts["math"].scales)
    choose(PromptDispatch("generate"), model)
    base = HFGenerator(model.lm, model.adapter, weights="base")
    expected = base.generate([boxed_example(e.prompt, DOMAINS) for e in QUESTIONS], Sampling(max_new_tokens=32))
    assert texts == [group[0].text for group in expected]


# Solved examples in the instruction

SHOTS = {"words": ["spell a", "spell b", "spell c"], "math": ["1 + 2", "2 + 2"], OTHER: ["hi", "bye"]}


def test_solved_examples_stand_in_turn_before_the_question(planted):
    asked = planted([[0.0, 0.0, 0.0]])
    choose(PromptDispatch(examples=SHOTS, shots=2, calibrate=False), examples=QUESTIONS[:1])
    lines = [line.partition(": ")[2] for line in asked[0][0].splitlines() if line.startswith(("Text", "Category:"))]
    assert lines == [
        *("1 + 2", "math", "hi", OTHER, "spell a", "words", "2 + 2", "math", "bye", OTHER, "spell b", "words"),
        "1 + 1",
    ]
    choose(PromptDispatch(examples=SHOTS, calibrate=False), examples=QUESTIONS[:1])  # without shots, all of a mapping
    assert asked[1][0].count("Category: ") == len([one for prompts in SHOTS.values() for one in prompts])


def test_examples_of_a_dispatch_task_are_from_its_train_split(planted, letter_task):
    task = Dispatch({"words": letter_task, "math": Sums()}, train_size=3, val_size=2, test_size=2)
    asked = planted([[0.0, 0.0, 0.0]])
    choose(PromptDispatch(examples=task, shots=2, calibrate=False), examples=QUESTIONS[:1])
    texts = [line.removeprefix("Text: ") for line in asked[0][0].splitlines() if line.startswith("Text: ")]
    assert len(texts) == 5
    assert set(texts[:-1]) <= {one.metadata["question"] for one in task.split("train")}


@pytest.mark.parametrize(
    ("strategy", "examples", "message"),
    [
        (
            PromptDispatch(examples=SHOTS),
            [Example("Spell  A")],
            r"'Spell  A' is also one of the solved examples",
        ),
        (
            PromptDispatch(examples={"maths": ["1 + 2"]}),
            QUESTIONS,
            r"'maths'; allowed: math, other, words. Did you mean 'math'",
        ),
        *[
            (PromptDispatch(mode), [QUESTIONS[0], Example(prompt)], "The prompt is empty")
            for mode in ("score", "generate")
            for prompt in ("", " \n")
        ],
    ],
)
def test_prompts_and_examples_that_cannot_be_used_are_refused(strategy, examples, message):
    with pytest.raises(ValueError, match=message):
        choose(strategy, examples=examples)


def test_the_yaml_takes_examples_from_a_task():
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose(overrides=["+strategy=prompt", "strategy.shots=2", "+task@strategy.examples=dispatch"])
    assert isinstance(instantiate(config.strategy), PromptDispatch)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "scores"}, "mode is 'scores'; allowed: generate, score. Did you mean 'score'"),
        ({"expert": "math"}, "expert is 'math'; allowed: dispatch"),
        ({"temperature": 0.0}, "temperature is 0.0; allowed: a number above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"mode": "generate", "soft": True}, "mode=generate has none"),
        ({"mode": "generate", "expert": "dispatch"}, "trained to answer with the bare label"),
        ({"expert": "dispatch", "examples": SHOTS}, "trained to answer with the bare label"),
        ({"shots": 2}, "shots is 2 without examples"),
        ({"examples": SHOTS, "shots": 0}, "shots is 0; allowed: at least 1"),
        ({"examples": SHOTS, "shots": 3}, "There are 2 examples of 'math'; shots asks for 3"),
        ({"examples": {"math": []}}, "There are 0 examples of 'math'"),
        ({"examples": Dispatch({"a": [Sums()], "b": [Sums()]})}, "examples is a task, and shots is null"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PromptDispatch(**options)


@pytest.mark.parametrize("mode", ["score", "generate"])
def test_domains_that_cannot_be_told_apart_are_refused(mode):
    experts = pooled().pool.experts
    pool = ExpertPool({"math": experts["math"], "mathematics": experts["words"]})
    with pytest.raises(ValueError, match="'math' is part of the label 'mathematics'"):
        choose(PromptDispatch(mode), PooledModel(pooled().generator, pool))
