"""Evaluation keeps the order and refuses bad scores; paired comparisons have the statistics that they claim."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2.evaluation.report import Report, compare
from t2.evaluation.scoring import evaluate
from t2.evaluation.statistics import majority
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


def report(scores: Sequence[float], system: str = "expert") -> Report:
    examples = tuple(Example(prompt=str(i)) for i in range(len(scores)))
    completions = tuple(completion("x") for _ in scores)
    return Report("task", system, examples, completions, tuple(map(float, scores)), None, {})


def paired_scores(wins: int, losses: int, ties: int) -> tuple[Report, Report]:
    return report([1] * wins + [0] * losses + [1] * ties), report([0] * wins + [1] * losses + [1] * ties, "base")


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
    with pytest.raises(ValueError, match=r"Task exact scored .* for example 2 \('2 \+ 0 = \?'\)"):
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


def test_majority_is_the_share_of_the_most_frequent_answer():
    assert majority([Example("q", answer=a) for a in "ABBAB"]) == 0.6


def test_majority_is_unknown_when_any_answer_is():
    assert majority([Example("q", answer="A"), Example("q")]) is None


def test_majority_of_nothing():
    with pytest.raises(ValueError, match="no examples"):
        majority([])


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (1, 1, 1.0),  # 2 * 3/4, cut at 1
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_by_hand(wins, losses, p_value):
    assert compare(*paired_scores(wins, losses, 3), resamples=1).p_value == pytest.approx(p_value, rel=1e-12)


@given(wins=st.integers(0, 60), losses=st.integers(0, 60))
@settings(max_examples=30)
def test_mcnemar_is_the_binomial_tail(wins, losses):
    n = wins + losses
    tail = sum(comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n
    made = compare(*paired_scores(wins, losses, 1), resamples=1)
    assert made.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_mcnemar_does_not_overflow_on_thousands():
    assert 0.0 <= compare(*paired_scores(2000, 1200, 0), resamples=1).p_value < 1e-40


@pytest.mark.parametrize("scores", [[0, 1, 1, 0], [0.2, 0.9, 0.5]])
def test_identical_reports_do_not_differ(scores):
    made = compare(report(scores), report(scores, "base"), resamples=50)
    assert (made.difference, made.ci95, made.p_value) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("a", "b"), [([1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 1]), ([0.5, 0.1, 1, 0.7], [0.2, 0.3, 0, 0.6])]
)
def test_swapping_the_reports_mirrors_the_result(a, b):
    one, other = compare(report(a), report(b), resamples=300), compare(report(b), report(a), resamples=300)
    assert other.difference == pytest.approx(-one.difference)
    assert other.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]))
    assert other.p_value == one.p_value


def test_difference_is_that_of_the_means():
    a, b = report([0.5, 0.25, 1.0]), report([0.0, 0.75, 0.5], "base")
    assert compare(a, b, resamples=10).difference == pytest.approx(a.mean - b.mean)


def test_sign_flip_matches_its_closed_form():
    # All differences 0.5: only the 2 of 2**4 sign patterns that all agree are as extreme.
    made = compare(report([0.75] * 4), report([0.25] * 4), resamples=4000)
    assert made.p_value == pytest.approx(2 / 16, abs=0.02)


def test_one_fraction_among_zeros_and_ones_rules_out_mcnemar():
    made = compare(report([1] * 6 + [0.1]), report([0] * 7), resamples=1)
    assert made.p_value >= 0.5  # 1/2 or 1 with one resample; McNemar's would be 2/128


def test_sign_flip_counts_ties_despite_rounding():
    # 0.1 + 0.2 is not 0.3 in floats; in exact arithmetic each of these patterns ties with the observed one.
    made = compare(report([0.3, 0.1, 0.2]), report([0.0, 0.0, 0.0]), resamples=2000)
    assert made.p_value == pytest.approx(2 / 8, abs=0.03)


def test_sign_flip_is_never_zero():
    made = compare(report([0.9] * 40), report([0.1] * 40), resamples=99)
    assert made.p_value == pytest.approx(1 / 100)


def test_one_example_proves_nothing():
    assert compare(report([0.9]), report([0.1]), resamples=50).p_value == 1.0


def test_sign_flip_rejects_a_true_null_about_as_often_as_it_says():
    rng = torch.Generator().manual_seed(1)
    rejected = 0
    for seed in range(200):
        a, b = torch.rand(2, 15, generator=rng)
        rejected += compare(report(a.tolist()), report(b.tolist()), resamples=99, seed=seed).p_value <= 0.1
    assert 8 <= rejected <= 34  # 20 expected, standard deviation 4.2


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    rng = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(200):
        a, b = torch.rand(2, 60, generator=rng)
        ours, base = (a < 0.7).int().tolist(), (b < 0.5).int().tolist()
        low, high = compare(report(ours), report(base), resamples=200, seed=seed).ci95
        covered += low <= 0.2 <= high
    assert 178 <= covered <= 199  # 190 expected; percentile intervals of 60 examples are slightly short


def test_the_interval_has_the_width_of_the_normal_approximation():
    scores = torch.rand(400, generator=torch.Generator().manual_seed(0)).tolist()
    made = compare(report(scores), report([0.0] * 400), resamples=3000)
    assert made.ci95[1] - made.ci95[0] == pytest.approx(2 * 1.96 * report(scores).stderr, rel=0.06)


def test_the_result_depends_on_the_seed_alone():
    a, b = report([0.5, 0.1, 1, 0.7]), report([0.2, 0.3, 0, 0.6])
    first = compare(a, b, resamples=60, seed=3)
    torch.manual_seed(99)
    assert compare(a, b, resamples=60, seed=3) == first
    assert compare(a, b, resamples=60, seed=4) != first


def test_comparing_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    compare(report([0.5, 0.1]), report([0.2, 0.3]), resamples=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_different_examples():
    a = report([1, 0])
    b = replace(a, system="base", examples=(a.examples[0], Example("another")))
    with pytest.raises(ValueError, match=r"expert and base .* number 1 is '1' and 'another'"):
        compare(a, b)


def test_reordered_examples():
    a = report([1, 0])
    with pytest.raises(ValueError, match="same order"):
        compare(a, replace(a, examples=a.examples[::-1]))


def test_other_number_of_examples():
    with pytest.raises(ValueError, match="2 and 3 examples"):
        compare(report([1, 0]), report([1, 0, 1]))


def test_other_task():
    with pytest.raises(ValueError, match="different tasks: task and other"):
        compare(report([1]), replace(report([1]), task="other"))


@pytest.mark.parametrize("resamples", [0, -1])
def test_no_resamples(resamples):
    with pytest.raises(ValueError, match=f"resamples is {resamples}; allowed: at least 1"):
        compare(report([1]), report([0]), resamples=resamples)
