"""What a dashboard shows of an evaluation: the summary and tables of a W&B run, confusion matrices, experts used.

Numbers are those of `results.json`, in shares of 1 and in seconds. Summary keys are `score/TASK/SYSTEM`, `gain/...`
over the base, `gain_over_form/...` over the best form control, and `truncated/...`, so that runs of a sweep can be
plotted against each other. The offline run holds all of it until `wandb sync`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from t2.adaptation.few_shot import Iteration
from t2.evaluation.report import Outcome, sample_line
from t2.evaluation.results import Confusion, Results
from t2.evaluation.statistics import Paired
from t2.experts.expert import Expert
from t2.experts.lora_expert import LoraExpert
from t2.experts.trained import Trained
from t2.run.tracking import artifact, table

COMPLETIONS = 50  # rows of each system on each task; samples.jsonl has all
RESULT_COLUMNS = (
    *("task", "system", "n", "score", "stderr", "gain", "gain_low", "gain_high", "p"),
    *("gain_over_form", "gain_over_form_low", "gain_over_form_high", "p_over_form", "null", "truncated"),
    *("fit_seconds", "pass1_seconds", "pass2_seconds", "prompt_tokens", "completion_tokens"),
)
CONTRAST_COLUMNS = ("task", "contrast", "first", "second", "gain", "gain_low", "gain_high", "p", "p_holm")
COMPLETION_COLUMNS = (
    *("task", "system", "prompt", "reference", "answer", "score", "reason", "finish", "tokens"),
    *("chosen", "mixing_weights"),
)
ADAPTED_COLUMNS = ("prompt", "system", "answer", "chosen", "mixing_weights")


def log_evaluation(
    runs: Sequence[Any], results: Results, outcomes: Sequence[Outcome], figures: Mapping[str, Path]
) -> None:
    """Log an evaluation into W&B runs; `figures` are images by name."""
    for run in runs:
        run.summary.update(summary_of(results))
        run.log({"results": table(RESULT_COLUMNS, list(result_rows(results)))})
        run.log({"completions": table(COMPLETION_COLUMNS, list(completion_rows(outcomes)))})
        if results.contrasts:
            run.log({"contrasts": table(CONTRAST_COLUMNS, list(contrast_rows(results)))})
        for system, matrix in (results.confusion or {}).items():
            run.log({f"confusion/{system}": confusion_chart(matrix)})
        for name, path in figures.items():
            run.log({f"figures/{name}": wandb.Image(str(path))})


def summary_of(results: Results) -> dict[str, float]:
    """The numbers of a run's summary, by key."""
    found: dict[str, float] = {"trainable_parameters": results.trainable_parameters}
    for task, systems in results.scores.items():
        found |= {f"score/{task}/{system}": score.mean for system, score in systems.items()}
    for name, part in (("gain", results.paired), ("gain_over_form", results.paired_form or {})):
        for task, pairs in part.items():
            found |= {f"{name}/{task}/{system}": pair.difference for system, pair in pairs.items()}
    for task, mixtures in (results.mixing_weights or {}).items():
        for system, weights in mixtures.items():
            found |= {f"weight/{task}/{system}/{domain}": value for domain, value in weights.items()}
    if results.support is not None:
        found["search/fitness"] = results.support.fitness
    for task, shares in (results.truncated or {}).items():
        found |= {f"truncated/{task}/{system}": share for system, share in shares.items()}
    for name, texts in (results.held_out or {}).items():
        found |= {f"held_out/{name}/{system}": one.loss for system, one in texts.items()}
        changed = {system: one.increase for system, one in texts.items() if one.increase is not None}
        found |= {f"forgetting/{name}/{system}": increase.difference for system, increase in changed.items()}
    found |= {f"seconds/{phase}": value for phase, value in results.seconds.items()}
    if results.peak_memory_bytes is not None:
        found["peak_memory_bytes"] = results.peak_memory_bytes
    return found


def result_rows(results: Results) -> Iterator[dict[str, Any]]:
    """A row per task and system."""
    for task, systems in results.scores.items():
        null = (results.null or {}).get(task)
        for system, score in systems.items():
            seconds = (results.pass_seconds or {}).get(task, {}).get(system, {})
            tokens = (results.tokens or {}).get(task, {}).get(system, {})
            yield {
                "task": task,
                "system": system,
                "n": score.n,
                "score": score.mean,
                "stderr": score.stderr,
                **_paired("gain", "p", results.paired[task].get(system)),
                **_paired("gain_over_form", "p_over_form", (results.paired_form or {}).get(task, {}).get(system)),
                "null": null.score if null is not None else score.majority,
                "truncated": (results.truncated or {}).get(task, {}).get(system),
                **{f"{part}_seconds": value for part, value in seconds.items()},
                **{f"{part}_tokens": tokens.get(part) for part in ("prompt", "completion")},
            }


def contrast_rows(results: Results) -> Iterator[dict[str, Any]]:
    """A row per contrast and task."""
    for one in results.contrasts or []:
        names = {"task": one.task, "contrast": one.contrast, "first": one.first, "second": one.second}
        yield {**names, **_paired("gain", "p", one.paired), "p_holm": one.p_holm}


def completion_rows(outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """The first completions of each system on each task, with what pass 1 chose for them."""
    for outcome in outcomes:
        report = outcome.report
        for index in range(len(report.examples[:COMPLETIONS])):
            weights = outcome.example_weights[index] if outcome.example_weights else {}
            yield sample_line(report, index, 0) | {
                "chosen": outcome.chosen[index] if outcome.chosen else None,
                "mixing_weights": weights_text(weights),
            }


def weights_text(weights: Mapping[str, float]) -> str | None:
    """`sums 1.00, reading 0.00`; None for no pool."""
    return ", ".join(f"{domain} {weight:.2f}" for domain, weight in weights.items()) or None


def log_search(
    runs: Sequence[Any], found: Mapping[str, float], history: Sequence[Iteration], mixture: Path, *, task: str
) -> None:
    """Log the search of a mixture: a row per generation, what was `found`, and its file as an artifact."""
    for run in runs:
        run.define_metric("search/*", step_metric="search/iteration")
        for line in history:
            run.log({f"search/{name}": getattr(line, name) for name in ("iteration", "best", "mean", "likelihood")})
        run.summary.update(dict(found))
        one = wandb.Artifact(f"mixture-{task}", type="mixture", metadata=dict(found))
        one.add_file(str(mixture))
        run.log_artifact(one)


def log_adapted(runs: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Log completions of single prompts, by system."""
    for run in runs if rows else ():
        run.log({"completions": table(ADAPTED_COLUMNS, rows)})


def confusion_chart(matrix: Confusion) -> Any:
    """W&B's own chart of a confusion matrix."""
    pairs = [
        (true, chosen)
        for true, counts in enumerate(matrix.counts)
        for chosen, count in enumerate(counts)
        for _ in range(count)
    ]
    true, chosen = zip(*pairs, strict=True)
    return wandb.plot.confusion_matrix(y_true=true, preds=chosen, class_names=list(matrix.labels))


def log_used_experts(runs: Sequence[Any], experts: Mapping[str, Trained | LoraExpert]) -> None:
    """Say which experts were used, by system name: in the run's configuration, and online as artifacts that it used.

    An artifact of the same bytes is the version that the training run logged, which is how W&B draws the line from one
    to the other. Offline W&B takes no inputs, so that the configuration alone names them.
    """
    about = {
        system: {"domain": one.metadata.domain, "task": one.metadata.task, "step": one.metadata.step}
        | {"base_model": one.metadata.base_model, "git_commit": one.metadata.git_commit}
        for system, one in experts.items()
    }
    for run in runs:
        run.config.update({"used_experts": about}, allow_val_change=True)
        if run.offline:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for number, one in enumerate(experts.values()):
                if isinstance(one, Expert):
                    path = one.save(Path(folder) / str(number) / "expert.safetensors")
                    run.use_artifact(artifact(path, one.metadata.domain, about=vars(one.metadata)))


def _paired(name: str, p: str, pair: Paired | None) -> dict[str, float]:
    if pair is None:
        return {}
    low, high = pair.ci95
    return {name: pair.difference, f"{name}_low": low, f"{name}_high": high, p: pair.p_value}
