"""Generation under a state per example, or under a given one: completions are those of the state's merged weights."""

import pytest
import tiny_models
import torch
from tiny_models import each_architecture, original, random_state, same_states, stacked, tiny, token_ids
from torch import Tensor

import t2.policy.decode as decode
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy.generator import AdaptableGenerator, PerExampleGenerator
from t2.policy.hf import HFGenerator
from t2.types import Completion, Example, Sampling

EXAMPLES = [Example(prompt="x" * n) for n in (3, 40, 11, 1, 25, 40, 7)]
INDEX = [1, 0, 2, 2, 1, 0, 1]  # state 2 is the base
GREEDY = Sampling(max_new_tokens=16)
SAMPLED = Sampling(max_new_tokens=16, temperature=1.0, samples=3, seed=6)


def adapted(architecture: str = "llama", dtype: torch.dtype = torch.float32) -> tuple[LanguageModel, SVF]:
    """A model whose completions end after some twelve random tokens, and an adapter that has learned something."""
    return tiny_models.adapted(architecture, dtype=dtype, ends=True, spread=0.2, seed=9)


class States:
    """Three states, the last one the base; remembers what it was asked for."""

    def __init__(self, svf: SVF) -> None:
        base = {name: torch.ones_like(s) for name, s in svf.singular_values.items()}
        self.states = [random_state(svf, 0), random_state(svf, 1), base]
        self.asked: list[list[int]] = []

    def __call__(self, numbers) -> dict[str, Tensor]:
        self.asked.append(list(numbers))
        return stacked(*(self.states[n] for n in numbers))


def same(one: list[list[Completion]], other: list[list[Completion]], tolerance: float = 1e-3) -> None:
    """The same tokens, and log-probs within the tolerance."""
    assert token_ids(one) == token_ids(other)
    for group, others in zip(one, other, strict=True):
        for a, b in zip(group, others, strict=True):
            assert a.log_probs == pytest.approx(b.log_probs, abs=tolerance)
            assert (a.text, a.finish, a.prompt_ids) == (b.text, b.finish, b.prompt_ids)


def under_own_weights(generator: HFGenerator, states: States, sampling: Sampling) -> list[list[Completion]]:
    """All examples under each merged state; of each example the answers under its own."""
    by_state = [generator.with_state(state).generate(EXAMPLES, sampling) for state in states.states]
    return [by_state[state][index] for index, state in enumerate(INDEX)]


# A state per example


@each_architecture
@pytest.mark.parametrize(("sampling", "share"), [(GREEDY, 0.25), (SAMPLED, 0.0), (SAMPLED, 1.0)])
def test_each_example_is_answered_as_under_its_merged_weights(monkeypatch, architecture, sampling, share):
    lm, svf = adapted(architecture)
    generator, states = HFGenerator(lm, svf), States(svf)
    expected = under_own_weights(generator, states, sampling)
    monkeypatch.setattr(decode, "COMPACT_SHARE", share)
    same(generator.with_per_example_scales(states, INDEX).generate(EXAMPLES, sampling), expected)


def test_the_states_give_different_completions_and_each_example_the_same_alone():
    lm, svf = adapted()
    generator, states = HFGenerator(lm, svf), States(svf)
    answers = [generator.with_state(state).generate(EXAMPLES, GREEDY) for state in states.states]
    learned = generator.generate(EXAMPLES, GREEDY)
    for index in range(len(EXAMPLES)):
        assert len({said[index][0].token_ids for said in [*answers, learned]}) == 4
    many = [random_state(svf, seed) for seed in range(len(EXAMPLES))]  # as many states as examples
    together = HFGenerator(lm, svf, batch_rows=3).with_per_example_scales(
        lambda numbers: stacked(*(many[n] for n in numbers)), range(len(EXAMPLES))
    )
    alone = [generator.with_state(s).generate([e], GREEDY)[0] for s, e in zip(many, EXAMPLES, strict=True)]
    same(together.generate(EXAMPLES, GREEDY), alone)
    assert generator.with_per_example_scales(states, []).generate([], GREEDY) == []


@pytest.mark.parametrize("batch_rows", [1, 3, 7])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_completions_do_not_depend_on_the_batch(batch_rows, sampling):
    lm, svf = adapted()
    states = States(svf)
    small = HFGenerator(lm, svf, batch_rows=batch_rows).with_per_example_scales(states, INDEX)
    same(small.generate(EXAMPLES, sampling), under_own_weights(HFGenerator(lm, svf), states, sampling))


def test_the_base_among_the_states_is_the_base_without_an_adapter_and_a_dtype_rounds_nothing():
    lm, svf = adapted()
    found, rounded = (
        HFGenerator(lm, svf, dtype=dtype).with_per_example_scales(States(svf), INDEX).generate(EXAMPLES, GREEDY)
        for dtype in (None, "bfloat16")
    )
    assert found == rounded
    base = HFGenerator(tiny(ends=True)).generate(EXAMPLES, GREEDY)
    same(*([group for group, state in zip(said, INDEX, strict=True) if state == 2] for said in (found, base)))


@pytest.mark.parametrize("batch_rows", [64, 2])
def test_states_are_asked_for_once_a_batch_and_no_more_than_it_needs(batch_rows):
    lm, svf = adapted()
    states = States(svf)
    HFGenerator(lm, svf, batch_rows=batch_rows).with_per_example_scales(states, INDEX).generate(EXAMPLES, SAMPLED)
    if batch_rows == 64:
        assert states.asked == [[0, 1, 2]]
    else:  # longest prompts first, one at a time for three samples
        assert states.asked == [[0], [0], [1], [2], [1], [1], [2]]


def test_half_precision_gives_each_example_what_it_gives_alone():
    lm, svf = adapted(dtype=torch.bfloat16)
    generator, states = HFGenerator(lm, svf), States(svf)
    first = Sampling(max_new_tokens=1)  # later ones follow from it, and near ties may fall either way
    together = generator.with_per_example_scales(states, INDEX).generate(EXAMPLES, first)
    for index, (example, state) in enumerate(zip(EXAMPLES, INDEX, strict=True)):
        (alone,) = generator.with_per_example_scales(states, [state]).generate([example], first)
        assert together[index][0].log_probs == pytest.approx(alone[0].log_probs, abs=0.1)
    assert len({group[0].log_probs for group in together}) > 3


def test_nothing_is_composed_and_what_was_learned_stays(monkeypatch):
    lm, svf = adapted()
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)
    learned = svf.state()
    held = {name: (weight.data_ptr(), weight.clone()) for name, weight in lm.model.named_parameters()}
    HFGenerator(lm, svf).with_per_example_scales(States(svf), INDEX).generate(EXAMPLES, SAMPLED)
    assert same_states(svf.state(), learned)
    assert all(layer.merged_weight is None and layer.example_scales is None for layer in svf.layers.values())
    for name, weight in lm.model.named_parameters():
        assert (weight.data_ptr(), True) == (held[name][0], torch.equal(weight, held[name][1]))


def test_a_stream_that_is_given_up_leaves_the_adapter_as_it_was():
    lm, svf = adapted()
    stream = HFGenerator(lm, svf, batch_rows=2).with_per_example_scales(States(svf), INDEX).stream(EXAMPLES, GREEDY)
    next(stream)
    assert svf.mode.per_example
    stream.close()
    assert (svf.mode.name, svf.mode.per_example, svf.mode.index) == ("factored", False, None)
    assert all(layer.example_scales is None for layer in svf.layers.values())


def test_states_apply_within_a_disabled_adapter_too():
    lm, svf = adapted()
    generator, states = HFGenerator(lm, svf, weights="base"), States(svf)
    with svf.disabled():
        inside = generator.with_per_example_scales(states, INDEX).generate(EXAMPLES, GREEDY)
        assert svf.mode.name == "off"
    same(inside, under_own_weights(generator, states, GREEDY))


@pytest.mark.parametrize("count", [0, 6, 8])
def test_another_number_of_states_than_examples_is_refused(count):
    lm, svf = adapted()
    with pytest.raises(ValueError, match=f"{count} states were given for 7 examples"):
        HFGenerator(lm, svf).with_per_example_scales(States(svf), [0] * count).generate(EXAMPLES, GREEDY)


# A given state


def test_a_given_state_is_that_state_loaded_and_changes_neither_adapter_nor_generator():
    lm, svf = adapted()
    generator, learned, state = HFGenerator(lm, svf), svf.state(), random_state(svf, 3)
    before = generator.generate(EXAMPLES, GREEDY)
    given = generator.with_state(state).generate(EXAMPLES, GREEDY)
    assert token_ids(given) != token_ids(before)
    assert HFGenerator(lm, svf, weights="base").with_state(state).generate(EXAMPLES, GREEDY) == given
    assert same_states(svf.state(), learned)
    assert all(layer.merged_weight is None for layer in svf.layers.values())
    assert generator.generate(EXAMPLES, GREEDY) == before
    sampled = generator.with_state(state).generate(EXAMPLES, SAMPLED)
    svf.load(state)
    assert generator.generate(EXAMPLES, GREEDY) == given
    assert generator.generate(EXAMPLES, SAMPLED) == sampled


def test_an_empty_state_is_the_base_and_merges_nothing(monkeypatch):
    lm, svf = adapted()
    expected = HFGenerator(lm, svf, weights="base").generate(EXAMPLES, SAMPLED)
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)
    assert HFGenerator(lm, svf).with_state({}).generate(EXAMPLES, SAMPLED) == expected


def test_the_latest_of_a_state_and_per_example_scales_counts_alone():
    lm, svf = adapted()
    generator, states = HFGenerator(lm, svf), States(svf)
    per_example, state = generator.with_per_example_scales(states, INDEX), generator.with_state(states.states[0])
    assert per_example.with_state(states.states[0]).generate(EXAMPLES, GREEDY) == state.generate(EXAMPLES, GREEDY)
    assert state.with_per_example_scales(states, INDEX).generate(EXAMPLES, GREEDY) == per_example.generate(
        EXAMPLES, GREEDY
    )


@pytest.mark.parametrize("state", [{}, None], ids=["base", "a state"])
def test_a_dtype_rounds_the_weights_of_a_state(state):
    lm, svf = adapted()
    first = Sampling(max_new_tokens=1, temperature=1.0, seed=3)
    given = random_state(svf, 3) if state is None else state
    exact = HFGenerator(lm, svf).with_state(given).generate(EXAMPLES, first)
    rounded = HFGenerator(lm, svf, dtype="bfloat16").with_state(given).generate(EXAMPLES, first)
    for one, two in zip(exact, rounded, strict=True):
        assert one[0].log_probs != two[0].log_probs
        assert one[0].log_probs == pytest.approx(two[0].log_probs, abs=0.3)


# What cannot be done


class MergingAdapter:
    def inject(self, model, source): ...
    def trainable(self): ...
    def state(self): ...
    def load(self, state): ...
    def disabled(self): ...
    def merged(self, state=None, *, dtype=None): ...
    def merged_weights(self, state=None): ...


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: HFGenerator(original()).with_state({}), "no adapter"),
        (
            lambda: HFGenerator(original()).with_per_example_scales(lambda _: {}, []),
            "cannot give every example its own",
        ),
        (
            lambda: HFGenerator(original(), MergingAdapter()).with_per_example_scales(lambda _: {}, []),
            "MergingAdapter cannot give every example its own state; use pass2=merged",
        ),
        (lambda: HFGenerator(original(), dtype="bfloat16"), "dtype=bfloat16 rounds merged weights"),
        (lambda: HFGenerator(*adapted(), dtype="bflaot16"), "Did you mean 'bfloat16'"),
    ],
)
def test_what_cannot_be_done_is_refused(ask, message):
    generator = HFGenerator(*adapted())
    assert isinstance(generator, AdaptableGenerator)
    assert isinstance(generator, PerExampleGenerator)
    with pytest.raises(ValueError, match=message):
        ask()
