"""Validation knows the base's scores, whatever the adapter has learned."""

from __future__ import annotations

from training_run import make_module

from t2.training.callbacks import Validation


def test_the_base_is_scored_with_what_was_learned_left_out() -> None:
    module, validation = make_module(), Validation(limit=5)
    base = validation.score_base(module).scores
    module.adapter.load({name: z * 3.0 for name, z in module.adapter.state().items()})
    learned = module.adapter.state()
    report = validation.score_base(module)
    assert (report.system, report.scores, len(base)) == ("base", base, 5)
    assert all(bool((z == learned[name]).all()) for name, z in module.adapter.state().items())
    prompts = module.task.split("val")[:5]
    completions = module.generator.generate(prompts, module.sampling)
    assert [group[0].text for group in completions] != [one.text for one in report.completions]
