"""Validation knows the base's scores, whatever the adapter has learned, and the best expert of a run that goes on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from conftest import LetterTask
from training_run import fit, make_module

from t2.experts.expert import EXPERT_FILE, Expert
from t2.training.callbacks import Checkpoints, Validation
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.types import Example


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


def test_completions_are_those_that_evaluate_counts_whatever_training_samples() -> None:
    module, validation = make_module(), Validation(limit=5)
    whole = validation.score_base(module).completions
    assert max(len(one.token_ids) for one in whole) == module.task.max_new_tokens > 2
    module.sampling = replace(module.sampling, max_new_tokens=2, stop=("e",))
    assert validation.score_base(module).completions == whole


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


class Stops(L.Callback):
    """Ends a run after its third step, as Ctrl-C does."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("every", "said"), [(1, "every finished step is saved"), (2, "the last saved step is 2")])
def test_a_run_that_is_stopped_says_what_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, every: int, said: str
) -> None:
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(make_module(), tmp_path, callbacks=[Validation(every=9), Checkpoints(every=every), Stops()])
    assert f"Stopped; {said}. Go on with" in caplog.text


@dataclass(frozen=True)
class Drops(LetterTask):
    """Validations have these scores, one after another."""

    means: tuple[float, ...] = ()
    asked: list[str] = field(default_factory=list)

    def score(self, example: Example, text: str) -> float:
        val = self.split("val")
        if example not in val:
            return super().score(example, text)
        self.asked.append(text)
        return self.means[(len(self.asked) - 1) // len(val)]


def test_the_best_step_is_that_of_the_file_also_where_its_validation_comes_out_lower(tmp_path: Path) -> None:
    """An engine that rounds otherwise, say; the checkpoint of step 2 is older than the validation of it."""
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(make_module(task=Drops(means=(0.2, 0.9))), tmp_path, callbacks=[
            Validation(every=2), Checkpoints(every=2), Stops(),
        ])  # fmt: skip
    again = Validation(every=2)
    callbacks = [again, Checkpoints(every=2)]
    task = Drops(means=(0.1, 0.05, 0.05))
    fit(make_module(task=task), tmp_path, steps=4, callbacks=callbacks, ckpt=tmp_path / LAST_CHECKPOINT)
    metadata = Expert.load(tmp_path / EXPERT_FILE).metadata
    assert (
        (metadata.step, metadata.val_after) == (again.best_step, pytest.approx(again.best)) == (2, pytest.approx(0.1))
    )


def test_a_finished_run_that_gets_more_steps_keeps_its_expert(tmp_path: Path) -> None:
    """The learning rate follows another schedule then, so that no step before the last is the same again."""
    first = [Validation(every=2), Checkpoints(every=3)]
    fit(make_module(task=Drops(means=(0.2, 0.5, 0.9)), total_steps=4), tmp_path, steps=4, callbacks=first)
    before = Expert.load(tmp_path / EXPERT_FILE)
    again = Validation(every=2)
    module = make_module(task=Drops(means=(0.9, 0.3)), total_steps=8)
    callbacks = [again, Checkpoints(every=3)]
    fit(module, tmp_path, steps=6, callbacks=callbacks, ckpt=tmp_path / LAST_CHECKPOINT)
    after = Expert.load(tmp_path / EXPERT_FILE)
    assert (again.best_step, again.best) == (4, pytest.approx(0.9))
    assert all(bool((z == after.scales[name]).all()) for name, z in before.scales.items())
