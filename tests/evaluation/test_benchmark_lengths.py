"""What does not fit the model is named, or left out of a prompt, before anything is run."""

from dataclasses import dataclass

import pytest
from conftest import LetterTask

from t2.evaluation.benchmark import Benchmark
from t2.evaluation.selection import Controls
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.tasks.form import Form
from t2.types import Example, Sampling


def chosen(task, tokens=6, shots=9, context_length=128):
    lm = tiny_model("llama", context_length=context_length)
    sampling = {task.name: Sampling(max_new_tokens=tokens)}
    made = Benchmark([task], split="test", controls=Controls(shots=shots), sampling=sampling)
    made.check_lengths(lm)
    return made.select({"base": HFGenerator(lm)})[task.name].scores


@dataclass(frozen=True)
class LongVal(LetterTask):
    more: int = 20

    def split(self, split):
        examples = super().split(split)
        return [Example(one.prompt + "x" * self.more, one.answer) for one in examples] if split == "val" else examples


def test_as_many_shots_are_shown_as_leave_room_for_the_answers_that_are_asked_for():
    assert "base+shots" in chosen(LetterTask(), tokens=40)


def test_as_many_shots_are_shown_as_fit_before_the_questions_that_are_chosen_on():
    assert "base+shots" in chosen(LongVal(more=30))


def test_a_validation_question_that_does_not_fit_is_named_before_any_is_run():
    with pytest.raises(ValueError, match="Row 1 of the val split of letters is not usable"):
        chosen(LongVal(more=120), shots=0)


def test_a_beginning_that_does_not_fit_is_named_before_any_is_run():
    class Begun(LetterTask):
        form = Form("", "abc" * 12)

    with pytest.raises(ValueError, match="test split of letters, with its prefix, is not usable"):
        chosen(Begun(), shots=0, context_length=64)
