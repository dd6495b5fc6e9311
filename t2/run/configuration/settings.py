"""The keys of the scripts' configurations, with their types and ranges; those of parts are their constructors'.

A class per script, with an attribute per top-level key of conf/SCRIPT.yaml: a test compares the two. Keys with a
default may be absent, which is how Hydra composes a group whose choice is null. The classes are never made.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from t2.run.configuration.hints import OneOf, Part
from t2.types import Seed

Text = Annotated[str, Field(min_length=1)]
Split = Annotated[str, OneOf("t2.tasks.base.Split")]
Pass2 = Annotated[str, OneOf("t2.adaptation.two_pass.Pass2")]
Control = Annotated[str, OneOf("t2.experts.transfer.Control")]


class Adapted:
    """Keys of every script."""

    base_model: Part
    adapter: Part
    paths: dict[str, str | None]
    seed: Seed


class Script(Adapted):
    """Keys of the scripts that generate."""

    generation: Part
    skip_finished: bool


class Pooled(Script):
    """Keys of the scripts that choose among experts."""

    experts: Part | None = None
    strategy: Part | None = None
    shots: NonNegativeInt
    support_split: Literal["train", "val"]
    pass2: Pass2


class Train(Pooled):
    """Keys of conf/train.yaml. `sampling.stop` may be null: the script puts in the task's."""

    task: Part
    objective: Part
    optimizer: Part
    sampling: Part
    trainer: Part
    callbacks: dict[str, Part]
    logger: dict[str, Part] | None = None
    resume: Text | None
    start_from: Text | None
    steps: PositiveInt
    prompts_per_step: PositiveInt
    domain: Text
    description: str
    micro_batch_tokens: PositiveInt
    share_prompts: bool
    recompute_activations: bool
    kl_every: NonNegativeInt
    score_workers: PositiveInt


class Estimate(Train):
    """Keys of conf/estimate.yaml."""

    gpu: Text | int | None
    devices: PositiveInt | None
    prompt_tokens: PositiveInt
    validation_examples: PositiveInt | None


class Applied(Pooled):
    """Keys of the scripts that apply experts."""

    logger: dict[str, Part] | None = None
    expert: Text | None
    transfer: bool


class Evaluate(Applied):
    """Keys of conf/evaluate.yaml. `sampling.max_new_tokens` and `stop` may be null: the script puts in the task's."""

    task: Part | None = None
    benchmarks: dict[str, Part | dict[str, str | None] | None] | None = None
    only: Text | None
    sampling: Part
    split: Split
    limit: PositiveInt | None
    keep_answers: bool
    score_workers: PositiveInt
    strategies: dict[str, Part]
    singles: bool
    uniform: bool
    all_at_1: bool
    controls: Part | None
    contrasts: list[Text]
    held_out: Part | None = None
    allow_seen: bool
    transfer_controls: list[Control]
    transfer_control_draws: PositiveInt
    support_sets: PositiveInt
    benchmark_domains: dict[str, str | None] | None


class Adapt(Applied):
    """Keys of conf/adapt.yaml."""

    task: Part | None = None
    sampling: Part
    prompt: str | None
    prompt_file: Text | None
    interactive: bool
    system: str | None


class Export(Adapted):
    """Keys of conf/export.yaml."""

    experts: Part | None = None
    expert: Text | None
    mixture: Text | None
    weights: dict[str, float] | None
    transfer: bool
    to: Literal["hf", "lora", "gguf", "hub"]
    out: Text | None
    rank: int | None
    max_shard_size: Text
    repo: Text | None
    license: Text | None
    results: Text | None
    dry_run: bool


class Serve(Adapted):
    """Keys of conf/serve.yaml."""

    backend: Part
    experts: Part | None = None
    strategies: list[Text] | Text | None
    transfer: bool
    skip_finished: bool
    host: Text
    port: Annotated[int, Field(ge=0, le=65535)]
    api_key_file: Text | None
    limits: Part
    examples: dict[str, list[str]]


# Arguments of parts that may be null, since the script puts them in.
FILLED_IN: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {"sampling": ("stop",)},
    "estimate": {"sampling": ("stop",)},
    "evaluate": {"sampling": ("max_new_tokens", "stop")},
}
SCRIPTS: dict[str, type[Any]] = {
    "train": Train,
    "evaluate": Evaluate,
    "adapt": Adapt,
    "export": Export,
    "estimate": Estimate,
    "serve": Serve,
}
