"""Validation knows the base's scores, whatever the adapter has learned, and the best expert of a run that goes on."""

from __future__ import annotations

from pathlib import Path

from training_run import fit, make_module

from t2.experts.expert import EXPERT_FILE, Expert
from t2.training.callbacks import Checkpoints, Validation
from t2.training.checkpoint_file import LAST_CHECKPOINT


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


def test_a_resumed_run_knows_the_best_expert_that_it_finds(tmp_path: Path) -> None:
    """A run's last validation comes after its last checkpoint."""
    first = [Validation(every=4), Checkpoints()]
    fit(make_module(lr=0.05), tmp_path, steps=2, callbacks=first)
    assert sorted(first[0].reports) == [0, 2]
    assert first[0].best_step == 2  # else nothing is shown here
    again = Validation(every=4)
    fit(make_module(lr=0.05), tmp_path, steps=3, callbacks=[again, Checkpoints()], ckpt=tmp_path / LAST_CHECKPOINT)
    assert again.reports[2] == first[0].reports[2]
    assert Expert.load(tmp_path / EXPERT_FILE).metadata.step == again.best_step
    assert again.best == max(sum(of) / len(of) for of in again.reports.values())


def test_a_run_that_was_killed_before_a_validation_has_none_more(tmp_path: Path) -> None:
    fit(make_module(lr=0.05), tmp_path, steps=2, callbacks=[Validation(every=4), Checkpoints()])
    (tmp_path / EXPERT_FILE).unlink()
    again = Validation(every=4)
    fit(make_module(lr=0.05), tmp_path, steps=3, callbacks=[again, Checkpoints()], ckpt=tmp_path / LAST_CHECKPOINT)
    assert sorted(again.reports) == [0, 3]
