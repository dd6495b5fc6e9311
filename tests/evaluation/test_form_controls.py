"""What the model reads under each control; what is graded does not change."""

from dataclasses import dataclass, field

from conftest import LetterTask

from t2.evaluation.form_controls import Told, form_controls
from t2.evaluation.scoring import evaluate
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
    controls = form_controls(task, base, shots)
    assert list(controls) == ["base+instruction", "base+shots", "base+prefix"]
    examples = task.split("test")[:1]
    for name, control in controls.items():
        report = evaluate(control, task, examples, Sampling(), system=name)
        assert report.examples == tuple(examples)  # so that it is compared with the others
    told = [(one.prompt, one.response_prefix) for one in base.asked]
    assert told == [
        ("number 48\nReply with small letters.", ""),
        ("number 0\nabc\n\nnumber 1\nabc\n\nnumber 48", ""),
        ("number 48", "abc"),
    ]


def test_a_form_has_only_the_controls_that_it_states():
    class InPrompt(LetterTask):
        form = IN_PROMPT

    assert form_controls(InPrompt(), Listens(), ()) == {}


def test_completions_are_streamed_where_the_generator_streams():
    examples = LetterTask().split("test")[:3]
    for generator, order in ((Streams(), [2, 1, 0]), (Listens(), [0, 1, 2])):
        told = Told(generator, LetterTask.form.with_prefix)
        assert [index for index, _ in told.stream(examples, Sampling())] == order
        assert [one.response_prefix for one in generator.asked] == ["abc"] * 3
