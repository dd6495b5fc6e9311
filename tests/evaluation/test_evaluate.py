"""Evaluation keeps the order of examples, averages samples and refuses bad scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from t2.evaluation.scoring import evaluate
from t2.policy.generator import Generator
from t2.types import Completion, Example, Sampling

EXAMPLES = tuple(Example(prompt=f"{i} + 0 = ?", answer=str(i)) for i in range(5))
SAMPLING = Sampling()


def completion(text: str) -> Completion:
    return Completion(prompt_ids=(1,), token_ids=(2,), log_probs=(-0.5,), text=text, finish="stop")


@dataclass
class Parrot:
    """A generator that answers each prompt with the texts it was given."""

    texts: dict[str, Sequence[str]]
    asked: list[tuple[Sequence[Example], Sampling]] = field(default_factory=list)

    def generate(self, examples, sampling):
        self.asked.append((examples, sampling))
        return [[completion(text) for text in self.texts[example.prompt]] for example in examples]


@dataclass
class Exact:
    """A task whose score is the text read as a number if it is one, else whether it equals the answer."""

    name: str = "exact"

    def split(self, split):
        return EXAMPLES

    def score(self, example, text):
        return float(text.removeprefix("score ")) if text.startswith("score ") else float(text == example.answer)


def answers_all(**changes: Sequence[str]) -> Parrot:
    texts = {example.prompt: [example.answer] for example in EXAMPLES}
    return Parrot(texts | {EXAMPLES[int(index[1:])].prompt: text for index, text in changes.items()})


def test_parrot_is_a_generator():
    assert isinstance(Parrot({}), Generator)


def test_scores_and_completions_are_in_the_order_of_the_examples():
    shuffled = [EXAMPLES[i] for i in (3, 0, 4, 1, 2)]
    made = evaluate(answers_all(_0=["wrong"], _2=["wrong"]), Exact(), shuffled, SAMPLING, system="base")
    assert made.scores == (1.0, 0.0, 1.0, 1.0, 0.0)
    assert [c.text for c in made.completions] == ["3", "wrong", "4", "1", "wrong"]
    assert made.examples == tuple(shuffled)


def test_report_carries_names_majority_and_seconds():
    made = evaluate(answers_all(), Exact(), EXAMPLES, SAMPLING, system="few_shot")
    assert (made.task, made.system, made.majority) == ("exact", "few_shot", 0.2)
    assert made.seconds.keys() == {"rollout", "score"}
    assert all(seconds >= 0 for seconds in made.seconds.values())


def test_the_generator_is_asked_once_with_the_sampling_given():
    generator = answers_all()
    evaluate(generator, Exact(), EXAMPLES, Sampling(max_new_tokens=7), system="base")
    assert generator.asked == [(EXAMPLES, Sampling(max_new_tokens=7))]


def test_several_samples_are_averaged_and_the_first_is_kept():
    generator = Parrot({EXAMPLES[0].prompt: ["no", "0", "no", "0"]})
    made = evaluate(generator, Exact(), EXAMPLES[:1], Sampling(samples=4, temperature=1.0), system="base")
    assert made.scores == (0.5,)
    assert [c.text for c in made.completions] == ["no"]


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "-0.01", "1.0001"])
def test_bad_score_names_task_and_example(bad):
    with pytest.raises(ValueError, match=r"Task exact scored .* for the example '2 \+ 0 = \?'"):
        evaluate(answers_all(_2=[f"score {bad}"]), Exact(), EXAMPLES, SAMPLING, system="base")


def test_bad_score_hidden_by_the_mean_is_found():
    generator = Parrot({EXAMPLES[0].prompt: ["score 2", "score 0"]})
    with pytest.raises(ValueError, match=r"scored 2\.0"):
        evaluate(generator, Exact(), EXAMPLES[:1], Sampling(samples=2, temperature=1.0), system="base")


@pytest.mark.parametrize("edge", ["0", "1", "0.25"])
def test_scores_from_zero_to_one_are_allowed(edge):
    made = evaluate(answers_all(_0=[f"score {edge}"]), Exact(), EXAMPLES, SAMPLING, system="base")
    assert made.scores[0] == float(edge)


def test_no_examples():
    with pytest.raises(ValueError, match="No examples of task exact"):
        evaluate(answers_all(), Exact(), [], SAMPLING, system="base")


def test_generator_that_breaks_the_protocol_is_caught():
    with pytest.raises(AssertionError, match="1 completions, expected 2"):
        evaluate(answers_all(), Exact(), EXAMPLES, Sampling(samples=2, temperature=1.0), system="base")
