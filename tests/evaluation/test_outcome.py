"""Tokens of an outcome: those of the answers, and those that went through the model where that is known."""

from dataclasses import replace

import pytest
from results_files import report_of
from tiny_pool import pooled

from t2.adaptation.fixed import Fixed
from t2.adaptation.two_pass import TwoPass
from t2.evaluation.form_controls import Told
from t2.evaluation.outcome import fit, model_of, outcome_of
from t2.types import Example, Sampling


@pytest.mark.parametrize("engine", [False, True])
def test_a_pass_that_another_engine_computes_has_an_unknown_number(letter_task, engine):
    model = pooled()
    system = TwoPass(model.generator, model.pool, Fixed(uniform=True))
    system.generate([Example("a"), Example("b")], Sampling(max_new_tokens=2))
    if engine:
        system.records = [replace(system.records[-1], forward_tokens={"pass1": 0, "pass2": 0})]
    report = replace(report_of("uniform", [1, 0]), seconds={"score": 0.5})
    seconds, tokens = fit(system, letter_task, ())
    outcome = outcome_of(report, system, seconds, tokens, 99)
    known = {"prompt": 2, "completion": 2, "fit": 0, "pass1": 0}
    assert {part: outcome.tokens[part] for part in known} == known
    assert ("pass2" in outcome.tokens) is not engine
    assert outcome.report.seconds.keys() == {"fit", "pass1", "pass2", "score"}


def test_of_other_systems_the_answers_count_whatever_is_told_to_them():
    model = pooled()
    told = Told(Told(model.generator, lambda one: one), lambda one: one)
    assert model_of(told) is model_of(TwoPass(model.generator, model.pool, Fixed(uniform=True))) is model.lm
    report = report_of("base", [1, 0])
    assert outcome_of(report, told, 0.0, 0, 7).tokens == {"prompt": 2, "completion": 2, "pass2": 7}
    assert "pass2" not in outcome_of(report, told, 0.0, 0, 0).tokens
