"""The keys of Lightning's trainer that t2 sets itself, or that would change nothing, and what to set instead.

One process trains, or several that divide each step (trainer=ddp, trainer=fsdp; `t2.training.ranks`). All other keys
are Lightning's, and are passed on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

DDP = "ddp"  # the strategy of several processes, each with the whole model
FSDP = "fsdp"  # and of several that share it
DIVIDED = (DDP, FSDP)
_ONE_PROCESS = (
    "a run is one process on one device; trainer=ddp trainer.devices=N divides each step among several. Or start "
    "several runs (-m seed=0,1), or spread generation over GPUs: generation=vllm generation.engine.tensor_parallel=N"
)
_COUNTS = ("devices", "num_nodes")  # any number of them with trainer=ddp
_LENGTH = "steps says how long a run is"
_VALIDATION = "callbacks.validation validates: set callbacks.validation.every, .limit or .patience"
_BATCHES = "a step takes prompts_per_step prompts: set that, or steps"
# Key -> the values that it may have, and why no others.
OWN_KEYS: Mapping[str, tuple[Collection[Any], str]] = {
    "devices": ((1, "1", "auto"), _ONE_PROCESS),
    "num_nodes": ((1,), _ONE_PROCESS),
    "strategy": (("auto", *DIVIDED), _ONE_PROCESS),
    "sync_batchnorm": ((False,), _ONE_PROCESS),
    "use_distributed_sampler": ((), _ONE_PROCESS),
    "gradient_clip_val": ((None,), "set optimizer.clip_norm"),
    "gradient_clip_algorithm": ((None,), "gradients are clipped by their norm: set optimizer.clip_norm"),
    "accumulate_grad_batches": ((1,), "a step is cut into parts by itself: set micro_batch_tokens or prompts_per_step"),
    "enable_checkpointing": ((False,), "callbacks.checkpoints saves: set callbacks.checkpoints.every"),
    "enable_progress_bar": ((False,), "callbacks.progress shows one"),
    "log_every_n_steps": ((1,), "every step is logged"),
    "logger": ((), "set the group logger, such as logger=csv"),
    "callbacks": ((), "set the group callbacks, such as +callbacks.NAME._target_=PACKAGE.CLASS"),
    "min_steps": ((None,), _LENGTH),
    "max_epochs": ((-1,), _LENGTH),
    "min_epochs": ((None,), _LENGTH),
    "limit_train_batches": ((None,), _BATCHES),
    "overfit_batches": ((0, 0.0), _BATCHES),
    "reload_dataloaders_every_n_epochs": ((0,), _BATCHES),
    "num_sanity_val_steps": ((0,), _VALIDATION),
    "limit_val_batches": ((None,), _VALIDATION),
    "val_check_interval": ((None,), _VALIDATION),
    "check_val_every_n_epoch": ((), _VALIDATION),
    "limit_test_batches": ((), "evaluate.py tests: set its limit"),
    "limit_predict_batches": ((), "adapt.py and evaluate.py complete prompts"),
    "barebones": ((False,), "a run is logged and saved"),
}


def trainer_faults(plain: Mapping[str, Any]) -> Iterator[str]:
    """The faults of the key `trainer` of a resolved configuration, if it has one."""
    trainer = plain.get("trainer")
    if not isinstance(trainer, Mapping):
        return
    for key, value in trainer.items():
        if trainer.get("strategy") in DIVIDED and key in _COUNTS:
            if type(value) is not int or value < 1:
                chosen = trainer["strategy"]
                yield f"trainer.{key} is {value!r}; allowed with trainer={chosen}: at least 1 (an integer)."
        else:
            yield from trainer_fault(str(key), value)
    own = {"max_steps": ("steps", plain.get("steps")), "default_root_dir": ("hydra.run.dir", plain["paths"]["run"])}
    for key, (instead, expected) in own.items():
        if trainer.get(key) != expected:
            yield f"trainer.{key} is {trainer.get(key)!r}, and t2 sets it to {expected!r}: set {instead} instead."
    if trainer.get("strategy") == FSDP:
        yield from _sharding_faults(plain)


def _sharding_faults(plain: Mapping[str, Any]) -> Iterator[str]:
    """What needs whole matrices, which no process has where they are sharded."""
    instead = "since no process holds a whole matrix. Leave it out, or use trainer=ddp."
    generation = plain.get("generation") or {}
    if generation.get("engine"):
        yield "generation=vllm is not possible with trainer=fsdp: its engine takes dense weights. Use generation=hf."
    if generation.get("mode") == "merged":
        yield f"generation.mode is 'merged'; allowed with trainer=fsdp: auto, factored, {instead}"
    if not generation.get("engine") and generation.get("dtype") is not None:
        yield f"generation.dtype is {generation['dtype']!r}; allowed with trainer=fsdp: null, {instead}"
    if plain.get("strategy"):
        yield (
            "strategy= scores the trained expert on the first process alone, which trainer=fsdp cannot: run "
            "evaluate.py afterwards, or use trainer=ddp."
        )
    for name, callback in (plain.get("callbacks") or {}).items():
        if str((callback or {}).get("_target_", "")).endswith(".Adaptation"):
            yield (
                f"callbacks.{name} evaluates strategies on the first process alone, which trainer=fsdp cannot: leave "
                "it out and run evaluate.py afterwards, or use trainer=ddp."
            )


def trainer_fault(key: str, value: Any) -> Iterator[str]:
    """The fault of one key of the trainer, if it has one."""
    allowed, instead = OWN_KEYS.get(key, ((value,), ""))
    if not any(value == one and type(value) is type(one) for one in allowed):
        only = f"allowed: {', '.join(map(_text, allowed))}" if allowed else "leave it out"
        yield f"trainer.{key} is {value!r}; {only}, since {instead}."


def own_key(key: str) -> str | None:
    """What to say where a key of the trainer is overridden that t2 sets itself; None for another key."""
    return f"{key} cannot be set by itself: {OWN_KEYS[key][1]}." if key in OWN_KEYS else None


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower()
