"""The dispatch task: no prompt of another split, as many of each label, and labels that can be told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from t2.tasks.base import Split
from t2.tasks.dispatch import Dispatch, check_labels, dispatch_example
from t2.types import OTHER, Example


@dataclass
class Prompts:
    """A task of given prompts, which notes what it is asked for."""

    name: str
    splits: dict[str, list[str]]
    max_new_tokens: int = 5
    asked: list[str] = field(default_factory=list)

    def split(self, split: Split) -> Sequence[Example]:
        self.asked.append(split)
        return [Example(prompt, answer="x", system="be brief", response_prefix="So") for prompt in self.splits[split]]

    def score(self, example: Example, text: str) -> float:
        raise AssertionError("a dispatch task never asks what is right elsewhere")


def numbered(name: str, train: int = 6, val: int = 4, test: int = 5) -> Prompts:
    sizes = {"train": train, "val": val, "test": test}
    return Prompts(name, {split: [f"{name} {split} {i}" for i in range(size)] for split, size in sizes.items()})


def dispatch(domains=None, **options) -> Dispatch:
    sizes = {"train_size": 3, "val_size": 2, "test_size": 2} | options
    return Dispatch(domains or {"math": numbered("sums"), "words": numbered("spelling")}, **sizes)


def questions(task: Dispatch, split: Split) -> list[str]:
    return [one.metadata["question"] for one in task.split(split)]


@pytest.mark.parametrize(("split", "size"), [("train", 3), ("val", 2), ("test", 2)])
def test_a_split_has_as_many_prompts_of_each_label_from_the_same_split_of_the_tasks(split, size):
    sums = numbered("sums", 50, 50, 50)
    task = dispatch({"math": sums, "words": numbered("spelling")}, other=numbered("talk"))
    assert Counter(one.answer for one in task.split(split)) == {"math": size, "words": size, OTHER: size}
    assert all(f" {split} " in question for question in questions(task, split))
    assert split != "test" or set(sums.asked) == {"test"}


def test_a_test_prompt_of_any_task_is_no_training_prompt_of_another():
    leaky = numbered("leaky", train=3)
    sums = numbered("sums")
    leaky.splits["train"] += [prompt.upper() for prompt in sums.splits["test"] + sums.splits["val"]]
    task = dispatch({"math": [sums, leaky], "words": numbered("spelling", train=9)}, train_size=9)
    assert all(" train " in question for question in questions(task, "train"))


def test_tasks_of_one_label_share_it_equally_while_they_last():
    tasks = [numbered("large", train=100), numbered("small", train=2), numbered("middle", train=20)]
    found = dispatch({"math": tasks, "words": numbered("spelling", train=20)}, train_size=12).split("train")
    counts = Counter(one.metadata["task"] for one in found if one.answer == "math")
    assert counts == {"large": 5, "small": 2, "middle": 5}


def test_tasks_of_one_label_may_be_named():
    tasks = [numbered("one"), numbered("two")]
    words = numbered("spelling")
    listed = dispatch({"math": tasks, "words": words}, other=[numbered("talk")])
    named = dispatch({"math": dict(zip("ab", tasks, strict=True)), "words": words}, other={"c": numbered("talk")})
    assert list(named.split("train")) == list(listed.split("train"))


def test_a_prompt_under_two_labels_is_refused():
    twin = numbered("twin")
    twin.splits["train"][2] = "SUMS train  0"
    with pytest.raises(ValueError, match=r"'SUMS train  0' is both in a task of 'math' and in one of 'words'"):
        dispatch({"math": numbered("sums"), "words": twin}).split("train")


def test_fewer_prompts_than_asked_for_are_refused():
    with pytest.raises(ValueError, match=r"train_size of dispatch is 7 .* split of sums has 6 for 'math'"):
        dispatch(train_size=7).split("train")


def test_labels_are_shuffled():
    task = dispatch({"math": numbered("sums", 60), "words": numbered("spelling", 60)}, train_size=40)
    labels = [one.answer for one in task.split("train")]
    assert {"math", "words"} == set(labels[:20]) == set(labels[-20:])


def test_the_seed_decides_which_prompts_and_in_which_order():
    first, same, other = (questions(dispatch(seed=seed), "train") for seed in (0, 0, 1))
    assert first == same != other


def test_without_other_tasks_other_is_offered_and_never_right():
    examples = dispatch().split("train")
    assert all(f"- {OTHER}: " in one.prompt for one in examples)
    assert OTHER not in {one.answer for one in examples}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("math", 1.0), (" Math.", 1.0), ("**MATH**, not words", 1.0), ("words or math", 0.0), ("other, or math", 0.0),
        ("mathematics", 0.0), ("", 0.0),
    ],
)  # fmt: skip
def test_the_label_named_first_is_the_answer(text, score):
    assert dispatch().score(Example("?", answer="math"), text) == score


def test_the_prompt_lists_every_label_once_with_its_description():
    one = dispatch(descriptions={"math": "sums\n and products"}).split("val")[0]
    lines = one.prompt.splitlines()
    assert lines.count("- math: sums and products") == 1
    assert lines.count("- words") == 1
    assert lines[-1].startswith("Text: ")
    assert one.response_prefix == dispatch().split("val")[0].response_prefix == "Category:"
    assert one.system is None  # nor is the task's own in the prompt
    assert "be brief" not in one.prompt
    assert dispatch_example("q", {"math": "a", "words": "b"}) == dispatch_example("q", {"words": "b", "math": "a"})


def test_all_prompts_of_one_instruction_begin_alike():
    one, other = (dispatch_example(question, {"math": "a"}, shots=[("1 + 1", "math")]).prompt for question in "xy")
    assert one.replace("Text: x", "Text: y") == other
    assert one.index("Category: math") < one.index("Text: x")


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(question):
    with pytest.raises(ValueError, match="The prompt is empty"):
        dispatch_example(question, {"math": ""})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["math", "other"], "'other' is among the domains"), (["math", "Other"], "'Other' is among the domains"),
        (["math", "mathematics"], "'math' is part of the label 'mathematics'"),
        (["aftermath", "Math"], "'Math' is part of the label 'aftermath'"), (["math", "MATH"], "is part of"),
        (["the", "math"], "'the' is part of the label 'other'"),
        (["another"], "'other' is part of the label 'another'"), ([""], "'' cannot be a label"),
        (["a}"], "cannot be a label"), ([" math"], "cannot be a label"), (["a\nb"], "cannot be a label"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_told_apart_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels)
    with pytest.raises(ValueError, match=message):
        dispatch({label: numbered(f"task{i}") for i, label in enumerate(labels)})


def test_labels_of_several_words_are_fine():
    check_labels(["word problems", "multi-step", "code_1", "数学"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "train_size of dispatch is 0"),
        ({"domains": {"math": numbered("sums")}}, "give two labels or more"),
        ({"domains": {"math": numbered("sums"), "words": []}}, "each a task or more"),
        ({"domains": {"math": numbered("sums"), "words": {}}}, "each a task or more"),
        ({"descriptions": {"maths": "sums"}}, "'maths'; allowed: math, words. Did you mean 'math'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dispatch(**options)


def test_one_domain_and_other_are_enough():
    task = dispatch({"math": numbered("sums")}, other=[numbered("talk")])
    assert {one.answer for one in task.split("test")} == {"math", OTHER}


def test_about_describes_the_data_of_its_tasks():
    documented = numbered("sums")
    documented.about = lambda: {"source": "org/sums"}
    task = dispatch({"math": [documented, numbered("plain")], "words": numbered("spelling")})
    assert task.about() == {"math": {"sums": {"source": "org/sums"}, "plain": {}}, "words": {"spelling": {}}}
