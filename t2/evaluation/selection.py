"""What is chosen on validation before a test is read: the best form control, and the best single expert.

The headline of an evaluation is the gain over the first; the second is what a strategy has to beat to be worth its
first pass. Both are chosen by one rule on examples that are not scored, so that neither profits from the test.
`oracle`, the best of the base and the single experts on each question, bounds what any choice of one expert can reach.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from t2.evaluation.report import Outcome, Report
from t2.evaluation.results import Selection
from t2.evaluation.scoring import evaluate
from t2.evaluation.system_names import BASE, BEST_SINGLE, ORACLE, is_form, is_single
from t2.policy.generator import Generator
from t2.tasks.base import NoSplit, Split, Task
from t2.tasks.splits import question_key
from t2.types import Example, Sampling

log = logging.getLogger(__name__)

CHOSEN_ON = 100  # validation examples, where nothing is said


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Settings of the controls.

    Attributes:
        shots: solved examples in the prompt of `base+shots`; 0 leaves that control out.
        limit: validation examples on which is chosen; None: as many as are scored, at most `CHOSEN_ON`.
        only_best: of the form controls, that which is chosen is scored beside the base, and the others are not.
    """

    shots: int = 3
    limit: int | None = None
    only_best: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a number outside its range."""
        if self.shots < 0 or (self.limit is not None and self.limit < 1):
            raise ValueError(
                f"controls: shots={self.shots}, limit={self.limit}; allowed: at least 0, and at least 1 or null."
            )

    def chosen_on(self, scored: int | None) -> int:
        """How many validation examples are chosen on, where the first `scored` of a split are scored; None: all."""
        return min(scored or CHOSEN_ON, CHOSEN_ON) if self.limit is None else self.limit


def passed_over(selection: Selection) -> list[str]:
    """The form controls that were not chosen, without the base."""
    return [name for name in selection.scores if is_form(name) and name not in (BASE, selection.form)]


def select(
    task: Task,
    systems: Mapping[str, Generator],
    sampling: Sampling,
    *,
    scored: Sequence[Example],
    split: Split,
    limit: int,
    workers: int,
) -> Selection:
    """Choose among the `systems` on the first `limit` validation examples; on the `scored` ones where there are none.

    Of equals the first is chosen, so that the base stands where no control does better.

    Raises:
        ValueError, OSError: the task has a validation split, and it cannot be read.
    """
    examples, chosen_on, why = validation_of(task, scored, split=split, limit=limit)
    if why is not None:
        log.warning(
            "%s: the best form control and single expert are chosen on the scored split, which favours them: %s",
            *(task.name, why),
        )
    scores = {
        name: fmean(evaluate(one, task, examples, sampling, system=name, workers=workers).scores)
        for name, one in systems.items()
        if is_form(name) or is_single(name)
    }
    forms, singles = ([name for name in scores if wanted(name)] for wanted in (is_form, is_single))
    single = max(singles, key=lambda name: scores[name]) if singles else None
    return Selection(chosen_on, len(examples), max(forms, key=lambda name: scores[name]), single, scores)


def validation_of(
    task: Task, scored: Sequence[Example], *, split: Split, limit: int
) -> tuple[Sequence[Example], Split, str | None]:
    """The first `limit` validation examples that are not scored, and `val`; scored ones, and why, where none are."""
    try:
        known = task.split("val")
    except NoSplit as error:  # all of its questions are for testing, as HumanEval's
        return scored[:limit], split, str(error)
    asked = {question_key(one) for one in scored}  # split=val, and splits=paper of a FewShotSplit, share some
    others = [one for one in known if question_key(one) not in asked][:limit]
    return (others, "val", None) if others else (scored[:limit], split, "all of its validation questions are scored.")


def derived(outcomes: Sequence[Outcome], selection: Selection) -> list[Outcome]:
    """`best_single` and `oracle` of one task, made of outcomes that were measured; none without single experts."""
    singles = [outcome for outcome in outcomes if is_single(outcome.report.system)]
    if not singles:
        return []
    (best,) = (outcome for outcome in singles if outcome.report.system == selection.single)
    base = next(outcome for outcome in outcomes if outcome.report.system == BASE)
    reports = [base.report, *(outcome.report for outcome in singles)]
    return [
        replace(best, report=replace(best.report, system=BEST_SINGLE)),
        Outcome(_best_of_each(reports)),
    ]


def _best_of_each(reports: Sequence[Report]) -> Report:
    """A report that takes each example from the first of the reports in which it scores highest."""
    picks = [max(reports, key=lambda report: report.scores[i]) for i in range(len(reports[0].examples))]
    return replace(
        reports[0],
        system=ORACLE,
        completions=tuple(report.completions[i] for i, report in enumerate(picks)),
        scores=tuple(report.scores[i] for i, report in enumerate(picks)),
        samples=tuple(report.samples[i] for i, report in enumerate(picks)),
        grades=tuple(report.grades[i] for i, report in enumerate(picks)),
        seconds={},
    )
