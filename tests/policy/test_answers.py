"""Greedy answers that are kept: whose they are, what is asked anew, and that what they took is charged each time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny_pool import DOMAINS, tiny_generator, tiny_pool

from t2.adaptation.fixed import Fixed
from t2.adaptation.two_pass import TwoPass
from t2.experts.mixture import Mixture
from t2.models.forward_tokens import count_forward_tokens
from t2.policy.answers import Answers
from t2.policy.hf import HFGenerator
from t2.run.phases import Phases
from t2.types import Completion, Example, PixelImage, Sampling

EXAMPLES = [Example("one"), Example("a longer question"), Example("two")]
GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture
def generator() -> HFGenerator:
    made = tiny_generator()
    made.answers = Answers()
    return made


def decoded(generator: HFGenerator, examples: Sequence[Example], sampling: Sampling = GREEDY) -> int:
    """How many of the answers were made, not taken from those kept."""
    assert generator.answers is not None
    before = generator.answers.reused
    assert len(generator.generate(examples, sampling)) == len(examples)
    return len(examples) - (generator.answers.reused - before)


def test_the_same_weights_answer_a_question_once_and_as_without(generator):
    state = tiny_pool(generator).state(Mixture.of(1.0, 0.0))
    fresh = tiny_generator().with_state(state).generate(EXAMPLES, GREEDY)
    assert decoded(generator.with_state(state), EXAMPLES[:2]) == 2
    forwards = []
    handle = generator.lm.decoder.register_forward_pre_hook(lambda *_: forwards.append(1))
    assert decoded(generator.with_state(state), EXAMPLES[:2]) == 0
    assert not forwards
    all_of_them = generator.with_state(dict(state)).generate(EXAMPLES, GREEDY)  # the third is made, in its place
    assert [one.token_ids for (one,) in all_of_them] == [one.token_ids for (one,) in fresh]
    assert forwards
    handle.remove()


@pytest.mark.parametrize(
    "other",
    [
        replace(EXAMPLES[0], system="Be brief."),
        replace(EXAMPLES[0], response_prefix="1"),
        replace(EXAMPLES[0], shots=(("q", "a"),)),
        replace(EXAMPLES[0], images=(PixelImage(b"\x00", (1, 1)),)),
        Example("One"),
    ],
)
def test_another_question_is_asked(generator, other):
    base = generator.with_state({})
    base.generate(EXAMPLES, GREEDY)
    if other.images:  # the tiny model takes none, and is asked, which it was not if the image did not count
        with pytest.raises(ValueError, match="image"):
            base.generate([other], GREEDY)
        return
    assert decoded(base, [other]) == 1
    assert decoded(base, [replace(EXAMPLES[0], answer="5", metadata={"id": 3})]) == 0  # nothing that the model reads


@pytest.mark.parametrize("changes", [{"max_new_tokens": 5}, {"stop": ("e",)}, {"temperature": 1.0}, {"samples": 2}])
def test_another_sampling_asks_again(generator, changes):
    base = generator.with_state({})
    base.generate(EXAMPLES, GREEDY)
    assert decoded(base, EXAMPLES, replace(GREEDY, **changes)) == 3
    assert decoded(base, EXAMPLES, replace(GREEDY, seed=7)) == 0  # no chance in it


def test_other_weights_have_answers_of_their_own(generator):
    pool = tiny_pool(generator)
    base = generator.with_state({})
    assert decoded(base, EXAMPLES) == 3
    assert decoded(another(generator, weights="base"), EXAMPLES) == 0
    assert decoded(another(generator, weights="base", dtype="bfloat16"), EXAMPLES) == 3
    for weight in (1.0, 0.999):
        assert decoded(generator.with_state(pool.state(Mixture.of(weight, 0.0))), EXAMPLES) == 3


def test_what_training_changes_and_states_per_example_are_not_kept(generator):
    pool = tiny_pool(generator)
    generator.adapter.load(pool.state(Mixture.of(1.0, 0.0)))
    before = generator.generate(EXAMPLES, GREEDY)
    generator.adapter.load(pool.state(Mixture.of(0.0, 1.0)))
    assert generator.generate(EXAMPLES, GREEDY) != before
    scales = pool.scales([Mixture.of(1.0, 0.0), Mixture.of(0.0, 1.0)])
    rows = generator.with_per_example_scales(lambda states: {n: z[list(states)] for n, z in scales.items()}, [0, 1, 0])
    assert decoded(rows, EXAMPLES) == decoded(rows, EXAMPLES) == 3


def test_what_an_answer_took_is_charged_to_each_that_has_it(generator):
    pool = tiny_pool(generator)
    first, again = (TwoPass(generator, pool, Fixed(weights={DOMAINS[0]: 1.0}), pass2="merged") for _ in range(2))
    with count_forward_tokens(generator.lm) as made:
        answers = first.generate(EXAMPLES, GREEDY)
    phases, start = Phases(), time.perf_counter()
    with count_forward_tokens(generator.lm) as charged, phases("rollout"):
        assert again.generate(EXAMPLES, GREEDY) == answers
    assert charged.count == made.count > 0
    assert again.records[-1].forward_tokens == first.records[-1].forward_tokens
    saved = generator.answers.saved_s
    assert 0 < saved <= first.records[-1].seconds["pass2"]
    assert saved <= again.records[-1].seconds["pass2"] <= phases.total_seconds["rollout"]
    took = time.perf_counter() - start
    assert phases.total_seconds["rollout"] <= saved + took  # charged once


def test_a_part_of_a_call_is_charged_with_its_share(generator):
    base = generator.with_state({})
    with count_forward_tokens(generator.lm) as made:
        base.generate(EXAMPLES, GREEDY)
    with count_forward_tokens(generator.lm) as part:
        base.generate(EXAMPLES[:2], GREEDY)
    assert made.count * 2 // 3 <= part.count <= made.count * 2 // 3 + 1
    with count_forward_tokens(generator.lm) as alone:
        base.generate([Example("new")], GREEDY)
    with count_forward_tokens(generator.lm) as mixed:
        base.generate([*EXAMPLES, Example("new")], GREEDY)
    assert mixed.count == made.count + alone.count


def test_an_answer_that_failed_is_not_kept(generator, monkeypatch):
    base = generator.with_state({})

    def fail(*_: object) -> Sequence[Completion]:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(HFGenerator, "_decode", fail)
        with pytest.raises(torch.OutOfMemoryError):
            base.generate(EXAMPLES, GREEDY)
    assert decoded(base, EXAMPLES) == 3


def another(generator: HFGenerator, **settings: object) -> HFGenerator:
    """Another generator of the same model, with the same answers."""
    made = HFGenerator(generator.lm, generator.adapter, **settings)
    made.answers = generator.answers
    return made
