"""Generation under a state per example, or under a given one: each answer is that of its state's merged weights."""

import copy
import functools

import pytest
import torch
from torch import Tensor

import t2.policy.hf as hf
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import ARCHITECTURES, tiny_model
from t2.policy.generator import AdaptableGenerator, PerExampleGenerator
from t2.policy.hf import HFGenerator
from t2.types import Completion, Example, Sampling

each_architecture = pytest.mark.parametrize("architecture", list(ARCHITECTURES))
EXAMPLES = [Example(prompt="x" * n) for n in (3, 40, 11, 1, 25, 40, 7)]
INDEX = [1, 0, 2, 2, 1, 0, 1]  # state 2 is the base
GREEDY = Sampling(max_new_tokens=16)
SAMPLED = Sampling(max_new_tokens=16, temperature=1.0, samples=3, seed=6)

original = functools.cache(tiny_model)


def adapted(architecture: str = "llama", dtype: str = "float32") -> tuple[LanguageModel, SVF]:
    """A model whose answers end after some twelve random tokens, and an adapter that has learned something."""
    lm = copy.deepcopy(original(architecture, dtype=dtype))
    lm.end_ids = frozenset(range(0, len(lm.tokenizer), 12))
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    svf.load(random_state(svf, 9))
    return lm, svf


def random_state(svf: SVF, seed: int, spread: float = 0.2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 1 + spread * torch.randn(s.shape, generator=generator) for name, s in svf.singular_values.items()}


class States:
    """Three states, the last one the base; remembers what it was asked for."""

    def __init__(self, svf: SVF) -> None:
        base = {name: torch.ones_like(s) for name, s in svf.singular_values.items()}
        self.states = [random_state(svf, 0), random_state(svf, 1), base]
        self.asked: list[list[int]] = []

    def __call__(self, numbers) -> dict[str, Tensor]:
        self.asked.append(list(numbers))
        return {name: torch.stack([self.states[n][name] for n in numbers]) for name in self.states[0]}


def same(one: list[list[Completion]], other: list[list[Completion]], tolerance: float = 1e-3) -> None:
    """The same tokens, and log-probs within the tolerance."""
    assert ids(one) == ids(other)
    for group, others in zip(one, other, strict=True):
        for a, b in zip(group, others, strict=True):
            assert a.log_probs == pytest.approx(b.log_probs, abs=tolerance)
            assert (a.text, a.finish, a.prompt_ids) == (b.text, b.finish, b.prompt_ids)


def ids(answers: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in answers]


def under_own_weights(generator: HFGenerator, states: States, sampling: Sampling) -> list[list[Completion]]:
    """All examples under each merged state; of each example the answers under its own."""
    by_state = [generator.with_state(state).generate(EXAMPLES, sampling) for state in states.states]
    return [by_state[state][place] for place, state in enumerate(INDEX)]


# Rows


@each_architecture
def test_each_example_answers_as_it_does_alone_under_merged_weights(architecture):
    lm, svf = adapted(architecture)
    generator, states = HFGenerator(lm, svf), States(svf)
    together = generator.with_per_example_scales(states, INDEX).generate(EXAMPLES, GREEDY)
    alone = [
        generator.with_state(states.states[state]).generate([example], GREEDY)[0]
        for example, state in zip(EXAMPLES, INDEX, strict=True)
    ]
    same(together, alone)


@each_architecture
def test_samples_of_an_example_wear_its_state(architecture):
    lm, svf = adapted(architecture)
    generator, states = HFGenerator(lm, svf), States(svf)
    same(
        generator.with_per_example_scales(states, INDEX).generate(EXAMPLES, SAMPLED),
        under_own_weights(generator, states, SAMPLED),
    )


def test_the_states_answer_differently():
    lm, svf = adapted()
    generator = HFGenerator(lm, svf)
    answers = [generator.with_state(state).generate(EXAMPLES, GREEDY) for state in States(svf).states]
    learned = generator.generate(EXAMPLES, GREEDY)
    for place in range(len(EXAMPLES)):
        assert len({said[place][0].token_ids for said in [*answers, learned]}) == 4


@pytest.mark.parametrize("batch_rows", [1, 3, 7])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_rows_do_not_depend_on_the_batch(batch_rows, sampling):
    lm, svf = adapted()
    states = States(svf)
    cut = (
        HFGenerator(lm, svf, batch_rows=batch_rows).with_per_example_scales(states, INDEX).generate(EXAMPLES, sampling)
    )
    same(cut, under_own_weights(HFGenerator(lm, svf), states, sampling))


@each_architecture
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_rows_do_not_depend_on_compaction(monkeypatch, architecture, share):
    lm, svf = adapted(architecture)
    generator, states = HFGenerator(lm, svf), States(svf)
    expected = under_own_weights(generator, states, SAMPLED)
    monkeypatch.setattr(hf, "COMPACT_SHARE", share)
    same(generator.with_per_example_scales(states, INDEX).generate(EXAMPLES, SAMPLED), expected)


def test_the_base_among_the_rows_is_the_base_without_an_adapter():
    lm, svf = adapted()
    rows = HFGenerator(lm, svf).with_per_example_scales(States(svf), INDEX).generate(EXAMPLES, GREEDY)
    plain = copy.deepcopy(original("llama", dtype="float32"))
    plain.end_ids = lm.end_ids
    base = HFGenerator(plain).generate(EXAMPLES, GREEDY)
    places = [place for place, state in enumerate(INDEX) if state == 2]
    same([rows[place] for place in places], [base[place] for place in places])


@pytest.mark.parametrize("batch_rows", [64, 2])
def test_states_are_asked_for_once_a_batch_and_no_more_than_it_wears(batch_rows):
    lm, svf = adapted()
    states = States(svf)
    HFGenerator(lm, svf, batch_rows=batch_rows).with_per_example_scales(states, INDEX).generate(EXAMPLES, SAMPLED)
    if batch_rows == 64:
        assert states.asked == [[0, 1, 2]]
    else:  # longest prompts first, one at a time for three samples
        assert states.asked == [[0], [0], [1], [2], [1], [1], [2]]


def test_as_many_states_as_examples():
    lm, svf = adapted()
    many = [random_state(svf, seed) for seed in range(len(EXAMPLES))]
    generator = HFGenerator(lm, svf, batch_rows=3)
    together = generator.with_per_example_scales(
        lambda numbers: {name: torch.stack([many[n][name] for n in numbers]) for name in many[0]}, range(len(EXAMPLES))
    ).generate(EXAMPLES, GREEDY)
    same(together, [generator.with_state(s).generate([e], GREEDY)[0] for s, e in zip(many, EXAMPLES, strict=True)])


def test_half_precision_rows_say_what_each_says_alone():
    lm, svf = adapted(dtype="bfloat16")
    generator, states = HFGenerator(lm, svf), States(svf)
    first = Sampling(max_new_tokens=1)  # later ones follow from it, and near ties may fall either way
    together = generator.with_per_example_scales(states, INDEX).generate(EXAMPLES, first)
    for place, (example, state) in enumerate(zip(EXAMPLES, INDEX, strict=True)):
        (alone,) = generator.with_per_example_scales(states, [state]).generate([example], first)
        assert together[place][0].log_probs == pytest.approx(alone[0].log_probs, abs=0.1)
    assert len({group[0].log_probs for group in together}) > 3


def test_rows_compose_nothing_and_leave_what_was_learned(monkeypatch):
    lm, svf = adapted()
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)
    learned = svf.state()
    held = {name: (weight.data_ptr(), weight.clone()) for name, weight in lm.model.named_parameters()}
    HFGenerator(lm, svf).with_per_example_scales(States(svf), INDEX).generate(EXAMPLES, SAMPLED)
    assert all(torch.equal(z, learned[name]) for name, z in svf.state().items())
    assert all(layer.merged_weight is None and layer.example_scales is None for layer in svf.layers.values())
    for name, weight in lm.model.named_parameters():
        assert (weight.data_ptr(), True) == (held[name][0], torch.equal(weight, held[name][1]))


def test_a_stream_of_rows_that_is_given_up_leaves_the_adapter_as_it_was():
    lm, svf = adapted()
    stream = HFGenerator(lm, svf, batch_rows=2).with_per_example_scales(States(svf), INDEX).stream(EXAMPLES, GREEDY)
    next(stream)
    assert svf.mode.per_example
    stream.close()
    assert (svf.mode.name, svf.mode.per_example, svf.mode.index) == ("factored", False, None)
    assert all(layer.example_scales is None for layer in svf.layers.values())


def test_rows_within_a_disabled_adapter_still_wear_their_states():
    lm, svf = adapted()
    generator, states = HFGenerator(lm, svf, weights="base"), States(svf)
    with svf.disabled():
        inside = generator.with_per_example_scales(states, INDEX).generate(EXAMPLES, GREEDY)
        assert svf.mode.name == "off"
    same(inside, under_own_weights(generator, states, GREEDY))


def test_rows_have_no_use_for_a_dtype():
    lm, svf = adapted()
    rounded = (
        HFGenerator(lm, svf, dtype="bfloat16").with_per_example_scales(States(svf), INDEX).generate(EXAMPLES, GREEDY)
    )
    assert rounded == HFGenerator(lm, svf).with_per_example_scales(States(svf), INDEX).generate(EXAMPLES, GREEDY)


def test_no_examples_no_answers():
    lm, svf = adapted()
    assert HFGenerator(lm, svf).with_per_example_scales(States(svf), []).generate([], GREEDY) == []


@pytest.mark.parametrize("count", [0, 6, 8])
def test_another_number_of_states_than_examples_is_refused(count):
    lm, svf = adapted()
    with pytest.raises(ValueError, match=f"{count} states were given for 7 examples"):
        HFGenerator(lm, svf).with_per_example_scales(States(svf), [0] * count).generate(EXAMPLES, GREEDY)


# A given state


def test_a_given_state_answers_as_that_state_loaded():
    lm, svf = adapted()
    state = random_state(svf, 3)
    given = HFGenerator(lm, svf).with_state(state).generate(EXAMPLES, SAMPLED)
    svf.load(state)
    assert HFGenerator(lm, svf).generate(EXAMPLES, SAMPLED) == given


def test_a_given_state_changes_neither_the_adapter_nor_the_generator():
    lm, svf = adapted()
    generator, learned = HFGenerator(lm, svf), svf.state()
    before = generator.generate(EXAMPLES, GREEDY)
    other = generator.with_state(random_state(svf, 3))
    assert ids(other.generate(EXAMPLES, GREEDY)) != ids(before)
    assert all(torch.equal(z, learned[name]) for name, z in svf.state().items())
    assert all(layer.merged_weight is None for layer in svf.layers.values())
    assert generator.generate(EXAMPLES, GREEDY) == before


@pytest.mark.parametrize("weights", ["adapted", "base"])
def test_a_given_state_counts_whatever_the_generator_has(weights):
    lm, svf = adapted()
    state = random_state(svf, 3)
    expected = HFGenerator(lm, svf).with_state(state).generate(EXAMPLES, GREEDY)
    assert HFGenerator(lm, svf, weights=weights).with_state(state).generate(EXAMPLES, GREEDY) == expected


def test_an_empty_state_is_the_base_and_merges_nothing(monkeypatch):
    lm, svf = adapted()
    expected = HFGenerator(lm, svf, weights="base").generate(EXAMPLES, SAMPLED)
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)
    assert HFGenerator(lm, svf).with_state({}).generate(EXAMPLES, SAMPLED) == expected


def test_a_state_after_rows_and_rows_after_a_state_count_alone():
    lm, svf = adapted()
    generator, states = HFGenerator(lm, svf), States(svf)
    rows, state = generator.with_per_example_scales(states, INDEX), generator.with_state(states.states[0])
    assert rows.with_state(states.states[0]).generate(EXAMPLES, GREEDY) == state.generate(EXAMPLES, GREEDY)
    assert state.with_per_example_scales(states, INDEX).generate(EXAMPLES, GREEDY) == rows.generate(EXAMPLES, GREEDY)


@pytest.mark.parametrize("state", [{}, None], ids=["base", "a state"])
def test_a_dtype_rounds_what_is_worn(state):
    lm, svf = adapted()
    first = Sampling(max_new_tokens=1, temperature=1.0, seed=3)
    worn = random_state(svf, 3) if state is None else state
    exact = HFGenerator(lm, svf).with_state(worn).generate(EXAMPLES, first)
    rounded = HFGenerator(lm, svf, dtype="bfloat16").with_state(worn).generate(EXAMPLES, first)
    for one, two in zip(exact, rounded, strict=True):
        assert one[0].log_probs != two[0].log_probs
        assert one[0].log_probs == pytest.approx(two[0].log_probs, abs=0.3)


# What cannot be done


def test_a_transformers_generator_can_do_both():
    lm, svf = adapted()
    assert isinstance(HFGenerator(lm, svf), AdaptableGenerator)
    assert isinstance(HFGenerator(lm, svf), PerExampleGenerator)


@pytest.mark.parametrize("ask", [lambda g: g.with_state({}), lambda g: g.with_per_example_scales(lambda _: {}, [])])
def test_without_an_adapter_there_is_nothing_to_wear(ask):
    with pytest.raises(ValueError, match=r"no adapter|cannot give every example its own state"):
        ask(HFGenerator(original("llama", dtype="float32")))


def test_an_adapter_without_rows_is_refused():
    class Merging:
        def inject(self, model, source): ...
        def trainable(self): ...
        def state(self): ...
        def load(self, state): ...
        def disabled(self): ...
        def merged(self, state=None, *, dtype=None): ...
        def merged_weights(self, state=None): ...

    with pytest.raises(ValueError, match="Merging cannot give every example its own state; use pass2=merged"):
        HFGenerator(original("llama", dtype="float32"), Merging()).with_per_example_scales(lambda _: {}, [])


def test_a_dtype_where_nothing_is_merged_is_refused():
    with pytest.raises(ValueError, match=r"dtype=bfloat16 rounds merged weights"):
        HFGenerator(original("llama", dtype="float32"), dtype="bfloat16")


def test_an_unknown_dtype_is_refused():
    lm, svf = adapted()
    with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
        HFGenerator(lm, svf, dtype="bflaot16")
