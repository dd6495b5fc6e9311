"""Two passes: what does not go together, and choices that do not fit."""

import pytest
from tiny_pool import Merging

from t2.adaptation.two_pass import TwoPass
from t2.experts.mixture import Mixture
from t2.policy.hf import HFGenerator
from t2.types import Example
from tests.adaptation.two_pass_setup import EXAMPLES, GREEDY, MIXTURES, A, Given, adapted, some_pool, two_pass

# What does not fit


@pytest.mark.parametrize(
    ("generator", "pool", "options", "message"),
    [
        (lambda g: g, some_pool, {"pass2": "row"}, "pass2 is 'row'; allowed: auto, merged, per_example"),
        (
            Merging,
            some_pool,
            {"pass2": "per_example"},
            "Merging cannot give every example its own mixture; use pass2=merged",
        ),
        (lambda g: HFGenerator(g.lm), some_pool, {}, "The generator has no adapter"),
        (lambda g: g, lambda svf: some_pool(svf, "tiny:other"), {}, "trained for tiny:other"),
        (lambda g: HFGenerator(*adapted(modules="mlp")), some_pool, {}, "not adapted in this model"),
    ],
    ids=["pass2", "per example", "no adapter", "another model", "other modules"],
)
def test_what_does_not_go_together_is_refused(generator, pool, options, message):
    lm, svf = adapted()
    with pytest.raises(ValueError, match=message):
        TwoPass(generator(HFGenerator(lm, svf)), pool(svf), Given(MIXTURES), **options)


def test_a_pool_of_another_model_can_be_transferred():
    lm, svf = adapted()
    TwoPass(HFGenerator(lm, svf), some_pool(svf, "tiny:other"), Given(MIXTURES), transfer=True)


@pytest.mark.parametrize(
    ("mixtures", "message"),
    [
        (MIXTURES[:-1], "given made 6 choices for 7 examples"),
        ([*MIXTURES, A], "given made 8 choices for 7 examples"),
        ([*MIXTURES[:-1], Mixture.of(1, 0)], "2 experts, expected 3"),
        ([*MIXTURES[:-1], Mixture.base(2)], "2 experts, expected 3"),
        ([*MIXTURES[:-1], Mixture(((0.0,) * 4,) * 3)], "4 mixing weights per expert, expected 1, or 14"),
    ],
)
@pytest.mark.parametrize("pass2", ["per_example", "merged"])
def test_choices_that_do_not_fit_are_refused_before_anything_is_answered(monkeypatch, pass2, mixtures, message):
    system = two_pass(mixtures, pass2=pass2)
    monkeypatch.setattr(system.generator.lm.model, "forward", None)
    with pytest.raises(ValueError, match=message):
        system.generate(EXAMPLES, GREEDY)
    assert (system.choices, system.records) == ((), [])


def test_a_prompt_that_does_not_fit_is_refused_before_the_first_pass():
    system = two_pass(pass2="per_example")
    with pytest.raises(ValueError, match="Shorten the prompt"):
        system.generate([*EXAMPLES[:6], Example(prompt="x" * 600)], GREEDY)
    assert system.strategy.seen == []
