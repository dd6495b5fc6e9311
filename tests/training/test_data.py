"""The prompts of a step depend on the seed and the step alone, and nothing repeats before all were seen."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.training.data import PromptData, PromptSchedule
from t2.types import Example

TEN = [Example(prompt=str(i)) for i in range(10)]


class Ten:
    name = "ten"

    def split(self, split):
        return {"train": TEN, "val": TEN[:1], "test": []}[split]

    def score(self, example, text):
        return 0.0


def prompts(schedule: PromptSchedule, first: int, last: int) -> list[str]:
    return [example.prompt for step in range(first, last) for example in schedule.at(step)]


@given(size=st.integers(1, 30), share=st.floats(0, 1), seed=st.integers(0, 2**31), steps=st.integers(1, 40))
def test_no_example_comes_twice_before_all_came_once(size, share, seed, steps):
    examples = [Example(prompt=str(i)) for i in range(size)]
    seen = prompts(PromptSchedule(examples, max(1, round(share * size)), seed), 0, steps)
    counts = Counter(seen)
    assert max(counts.values()) - min(counts.get(str(i), 0) for i in range(size)) <= 1
    for epoch in range(0, len(seen), size):
        assert len(set(seen[epoch : epoch + size])) == len(seen[epoch : epoch + size])


def test_a_step_is_the_same_however_one_gets_there():
    walked = PromptSchedule(TEN, 4, seed=3)
    expected = [walked.at(step) for step in range(12)]
    assert [PromptSchedule(TEN, 4, seed=3).at(step) for step in reversed(range(12))] == expected[::-1]


def test_another_seed_is_another_order_and_so_is_another_epoch():
    assert prompts(PromptSchedule(TEN, 5, 0), 0, 2) != prompts(PromptSchedule(TEN, 5, 1), 0, 2)
    whole = PromptSchedule(TEN, 10, 0)  # the whole split may be one step
    assert len(whole.at(0)) == 10
    assert prompts(whole, 0, 1) != prompts(whole, 1, 2)


@pytest.mark.parametrize("prompts_per_step", [0, -1, 11])
def test_a_step_that_the_split_cannot_fill_is_refused(prompts_per_step):
    with pytest.raises(ValueError, match=rf"prompts_per_step is {prompts_per_step}; allowed: 1 to the 10"):
        PromptData(Ten(), prompts_per_step=prompts_per_step, steps=1, seed=0)


def test_loader_gives_every_step_once_as_a_list():
    data = PromptData(Ten(), prompts_per_step=3, steps=4, seed=0)
    batches = list(data.train_dataloader())
    assert batches == [data.schedule.at(step) for step in range(4)]
    assert all(isinstance(example, Example) for batch in batches for example in batch)


def test_resumed_loader_goes_on_where_the_run_stopped():
    whole = list(PromptData(Ten(), prompts_per_step=3, steps=6, seed=1).train_dataloader())
    resumed = PromptData(Ten(), prompts_per_step=3, steps=6, seed=1)
    resumed.trainer = SimpleNamespace(global_step=4)  # type: ignore[assignment]
    assert list(resumed.train_dataloader()) == whole[4:]


@pytest.mark.parametrize(("split", "changed"), [("train", {"answer": "7"}), ("val", {"prompt": "Another"})])
def test_a_checkpoint_is_of_its_questions(monkeypatch, split, changed):
    saved = PromptData(Ten(), prompts_per_step=3, steps=4, seed=0).state_dict()
    PromptData(Ten(), prompts_per_step=3, steps=9, seed=0).load_state_dict(saved)
    of = Ten.split
    edited = {"train": [*TEN[:4], replace(TEN[4], **changed), *TEN[5:]], "val": [replace(TEN[0], **changed)]}
    monkeypatch.setattr(Ten, "split", lambda self, name: edited[name] if name == split else of(self, name))
    resumed = PromptData(Ten(), prompts_per_step=3, steps=9, seed=0)
    with pytest.raises(ValueError, match=rf"ten are not those that this run began with \({split} differ"):
        resumed.load_state_dict(saved)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 9])
def test_the_rows_that_are_checked_are_those_that_steps_use(steps):
    """Checking others would refuse a split for a row that no step meets, and read images for nothing."""
    schedule = PromptSchedule(TEN, 4, seed=1)
    used = schedule.used(steps)
    assert {example.prompt for example in used.values()} == set(prompts(schedule, 0, steps))
    assert all(TEN[number - 1] == example for number, example in used.items())
