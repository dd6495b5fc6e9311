"""What a system took and chose: fits a strategy, and makes an outcome of a report.

Seconds and tokens are those of fit and of both passes, and tokens also of the answers and their prompts. Nothing is
scored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from t2.adaptation.strategy import PooledModel
from t2.adaptation.two_pass import TwoPass
from t2.evaluation.form_controls import Told
from t2.evaluation.report import Outcome, Report
from t2.models.forward_tokens import count_forward_tokens
from t2.models.language_model import LanguageModel
from t2.policy.generator import AdaptableGenerator, Generator
from t2.run.phases import charged_clock
from t2.tasks.base import Task
from t2.types import Example


def fit(generator: Generator, task: Task, support: Sequence[Example]) -> tuple[float, int]:
    """Fit the strategy of a two-pass system; returns the seconds and the tokens through the model that it took.

    Raises:
        ValueError: what the strategy refuses.
    """
    if not isinstance(generator, TwoPass):
        return 0.0, 0
    start = charged_clock()
    with count_forward_tokens(generator.generator.lm) as tokens:
        generator.strategy.fit(PooledModel(generator.generator, generator.pool), task, support)
    return charged_clock() - start, tokens.count


def model_of(generator: Generator) -> LanguageModel | None:
    """The model that a generator's answers come from; None where it has none that is known."""
    while isinstance(generator, Told | TwoPass):
        generator = generator.generator
    return generator.lm if isinstance(generator, AdaptableGenerator) else None


def outcome_of(
    report: Report, generator: Generator, fit_seconds: float, fit_tokens: int, answer_tokens: int
) -> Outcome:
    """The report with tokens, and the seconds, mixing weights and labels of a two-pass system's latest call.

    `fit_tokens` and `answer_tokens` went through the model; a two-pass system knows its answers' by itself.
    """
    answers = [one for group in report.samples for one in group]
    tokens = {
        "prompt": sum(len(group[0].prompt_ids) for group in report.samples),
        "completion": sum(len(one.token_ids) for one in answers),
    }
    if not isinstance(generator, TwoPass):
        # None through the model: another engine has answered, and the number is unknown.
        return Outcome(report, tokens=tokens | ({"pass2": answer_tokens} if answer_tokens else {}))
    record = generator.records[-1]
    seconds = {"fit": fit_seconds, **record.seconds, "score": report.seconds["score"]}
    # A pass that has generated and took none was another engine's: unknown.
    passes = {part: n for part, n in record.forward_tokens.items() if n or not record.tokens[part]}
    choices = generator.choices
    weights = tuple(dict(zip(generator.pool.domains, choice.mixture.means, strict=True)) for choice in choices)
    labels = tuple(choice.label for choice in choices if choice.label is not None)
    return Outcome(
        replace(report, seconds=seconds),
        {domain: sum(one[domain] for one in weights) / len(weights) for domain in generator.pool.domains},
        labels if len(labels) == len(choices) else (),
        {**tokens, "fit": fit_tokens, **passes},
        weights,
    )
