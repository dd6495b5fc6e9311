"""The model card of an expert: what was learned, from which base model, its scores with intervals, and its licence.

Its format is that of huggingface_hub (`ModelCard`), so that the hub reads the scores. Scores are those of a run's
`results.json`. Not done here: the folder that it lies in (`t2.experts.export_hub`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from t2.experts.expert import EXPERT_FILE, Expert
from t2.models.sources import may_be_on_hub
from t2.run.base_model import words_for_source
from t2.run.fetch import file_sha256
from t2.run.files import parse_json
from t2.run.results import RESULTS_FILE

log = logging.getLogger(__name__)

Z95 = 1.959964  # of the normal distribution: intervals are mean ± Z95 standard errors
TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

An expert of Transformer² (arXiv 2501.06252) for **{{ task }}**: {{ numbers }} multipliers of the singular values of
`{{ base_model }}`. {{ description }}

| | |
|---|---|
| task | {{ task }} |
| domain | {{ domain }} |
| base model | `{{ base_model }}` |
| parametrization | {{ parametrization }} |
| objective | {{ objective }}, step {{ step }} |
| licence | {{ license }} |
| code | transformer2 {{ t2_version }}, commit {{ commit }} |
| SHA-256 of expert.safetensors | {{ sha256 }} |

## Scores

{{ scores }}

## Use

The base model is not in this repository. With `pip install transformer2`, and expert.safetensors downloaded:

    t2 adapt {{ choice }} expert=expert.safetensors prompt="..."
    t2 export {{ choice }} expert=expert.safetensors to=hf out=FOLDER

The second (or `to=lora`) writes what transformers or PEFT load by themselves.
"""


@dataclass(frozen=True)
class Measured:
    """The score of one system on one task: mean, and its half of a 95 % interval."""

    task: str
    system: str
    split: str
    mean: float
    half_width: float | None
    n: int


def read_scores(path: Path, expert: Expert, sha256: str) -> list[Measured]:
    """The scores of base and expert in the `results.json` of a run (its folder, or the file).

    `sha256` is that of the expert's file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another base model or expert, or scores no expert.
    """
    file = path / RESULTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"No {RESULTS_FILE} at {path}. Give results=RUN, the folder of a run of evaluate.py.")
    content = parse_json(file.read_bytes(), f"{file} is damaged: it", "Evaluate again.")
    if not isinstance(content, dict) or not isinstance(content.get("scores"), dict):
        raise ValueError(f"{file} holds no scores. Give results=RUN, the folder of a run of evaluate.py.")
    if content.get("base_model") != expert.metadata.base_model:
        raise ValueError(
            f"{file} scores {content.get('base_model')}, and the expert is of {expert.metadata.base_model}. Give the "
            "run that evaluated this expert."
        )
    found = list(_measured(content))
    if not any(one.system == "expert" for one in found):
        raise ValueError(f"{file} scores no expert. Run evaluate.py expert=RUN, and give its folder.")
    check_scored(content, file, sha256)
    return found


def check_scored(content: Mapping[str, Any], file: Path, sha256: str) -> None:
    """Raise ValueError where a run scored another expert's file than that of `sha256`; a warning where it cannot say.

    A training run scores the expert that it has written beside its results.
    """
    beside, scored = file.parent / EXPERT_FILE, content.get("expert_sha256")
    if scored is None and beside.is_file():
        scored = file_sha256(beside)
    if scored is None:
        log.warning("%s is of an older t2 and does not say which file it scored: see that it was this expert.", file)
    elif scored != sha256:
        raise ValueError(
            f"{file} scores another expert (SHA-256 {scored[:12]}) than the one to publish ({sha256[:12]}). Give the "
            "run that evaluated this expert."
        )


def _measured(content: Mapping[str, Any]) -> Iterator[Measured]:
    for task, systems in content["scores"].items():
        for system in ("base", "expert"):
            if (score := systems.get(system)) is not None:
                error = score.get("stderr")
                half = None if error is None else Z95 * error
                yield Measured(task, system, content.get("split") or "test", score["mean"], half, score["n"])


def make_card(expert: Expert, sha256: str, *, repo: str, license: str, scores: list[Measured]) -> ModelCard:
    """The model card, with the scores of the expert as the hub reads them."""
    known = expert.metadata
    name = repo.partition("/")[2]
    hub_base = known.base_model if may_be_on_hub(known.base_model) else None
    data = ModelCardData(
        base_model=hub_base,  # a source that is not on the hub is named in the text alone
        library_name="transformer2",
        license=license,
        model_name=name,
        tags=["transformer-squared", "singular-value-fine-tuning"],
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=one.task,
                dataset_name=one.task,
                dataset_split=one.split,
                metric_type="accuracy",
                metric_value=one.mean,
            )
            for one in scores
            if one.system == "expert"
        ]
        or None,
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        name=name,
        numbers=expert.parameter_count,
        task=known.task,
        domain=known.domain,
        description=known.description,
        base_model=known.base_model,
        choice=words_for_source(known.base_model),
        parametrization=known.parametrization,
        objective=known.objective,
        step=known.step,
        license=license,
        t2_version=known.t2_version,
        commit=known.git_commit or "unknown",
        sha256=sha256,
        scores=_table(scores, expert),
    )
    return card


def _table(scores: list[Measured], expert: Expert) -> str:
    before, after = expert.metadata.val_before, expert.metadata.val_after
    if not scores and (before is None or after is None):
        return "Not evaluated: no run was named."
    if not scores:
        return f"On validation examples while training, without an interval: {before:.3f} before, {after:.3f} after."
    lines = ["Means with 95 % intervals (normal approximation).", "", "| task | split | n | system | score |"]
    lines.append("|---|---|---|---|---|")
    for one in scores:
        interval = "" if one.half_width is None else f" ± {one.half_width:.3f}"
        lines.append(f"| {one.task} | {one.split} | {one.n} | {one.system} | {one.mean:.3f}{interval} |")
    return "\n".join(lines)
