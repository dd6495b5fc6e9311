"""What the model reads under each control; what is graded does not change."""

from dataclasses import dataclass, field

from conftest import LetterTask

from t2.evaluation.form_controls import Told, form_controls
from t2.evaluation.scoring import evaluate
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.tasks.form import IN_PROMPT
from t2.types import Completion, Example, Sampling


@dataclass
class Listens:
    """A generator that keeps what it was asked."""

    asked: list[Example] = field(default_factory=list)

    def generate(self, examples, sampling):
        self.asked += examples
        return [[Completion((1,), (2,), (0.0,), "abc", "stop")] for _ in examples]


class Streams(Listens):
    def stream(self, examples, sampling):
        yield from reversed(list(enumerate(self.generate(examples, sampling))))


def test_each_control_tells_the_form_in_its_way():
    task, base = LetterTask(), Listens()
    shots = task.split("train")[:2]
    examples = task.split("test")[:1]
    controls = form_controls(task, base, examples, shots)
    assert list(controls) == ["base+instruction", "base+shots", "base+prefix"]
    for name, control in controls.items():
        report = evaluate(control, task, examples, Sampling(), system=name)
        assert report.examples == tuple(examples)  # so that it is compared with the others
    told = [(one.prompt, one.response_prefix, one.shots) for one in base.asked]
    assert told == [
        ("number 48\nReply with small letters.", "", ()),
        ("number 48", "", (("number 0", "abc"), ("number 1", "abc"))),
        ("number 48", "abc", ()),
    ]


def test_a_form_has_only_the_controls_that_it_states():
    class InPrompt(LetterTask):
        form = IN_PROMPT

    assert form_controls(InPrompt(), Listens(), LetterTask().split("test"), ()) == {}


def test_a_control_that_the_examples_have_already_is_left_out():
    begun = [LetterTask.form.with_prefix(one) for one in LetterTask().split("test")]
    assert list(form_controls(LetterTask(), Listens(), begun, ())) == ["base+instruction"]


def test_completions_are_streamed_where_the_generator_streams():
    examples = LetterTask().split("test")[:3]
    for generator, order in ((Streams(), [2, 1, 0]), (Listens(), [0, 1, 2])):
        told = Told(generator, LetterTask.form.with_prefix)
        assert [index for index, _ in told.stream(examples, Sampling())] == order
        assert [one.response_prefix for one in generator.asked] == ["abc"] * 3


def test_only_as_many_shots_are_shown_as_the_context_holds(caplog):
    lm = tiny_model("llama", context_length=128)  # a question has 29 tokens, a solved one 32
    task = LetterTask()
    controls = form_controls(task, HFGenerator(lm), task.split("test"), task.split("train")[:9])
    assert len(controls["base+shots"].rewrite(Example("q")).shots) == 2
    assert "shows fewer than 9 solved examples" in caplog.text
    short = form_controls(
        task, HFGenerator(tiny_model("llama", context_length=64)), task.split("test"), task.split("train")[:9]
    )
    assert "base+shots" not in short
