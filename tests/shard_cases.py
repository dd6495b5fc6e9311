"""Short runs that tests/training/test_sharded.py compares: by one process, and by several that share a sharded model.

`main` is what each of two or four processes does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from conftest import LetterTask
from rank_cases import BATCHES, ONE_SIDED, PROMPTS, Breaks, run, two
from tiny_models import tiny
from torch import Tensor, nn
from training_run import fit, flat, make_module

import t2.adapters.svd
from t2.adapters.targets import decoder_blocks
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.models.tiny import tiny_model
from t2.run.ranks import AnotherRankFailed
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.es import ES
from t2.training.module import ExpertTraining
from t2.training.objectives import RLOO, Reinforce
from t2.training.sharded import frozen_bytes
from t2.types import Example

FEW = {"spectrum": "top", "rank": 4}
CASES: dict[str, dict[str, Any]] = {
    "rloo": {"objective": RLOO(length_norm="batch_tokens"), "micro_batch_tokens": 150},  # other numbers on each rank
    "kl_few": {"objective": Reinforce(kl_coefficient=0.1), **FEW},
    "es": {"objective": ES(population_size=4)},
    "one_sided": {"task": ONE_SIDED},  # one rank has no micro-batch
}
OF_TWO = ("rloo", "kl_few", "es")
OF_FOUR = {"rloo": (2, 2), "one_sided": (4, 1)}  # processes on each machine, machines
HALF = {"architecture": "gpt2", "dtype": torch.bfloat16}  # the joint weight, transposed
FILES, CACHE, BLOCKS = "model", "cache", 32


@dataclass(frozen=True)
class BreaksInUpdate(RLOO):
    """Raises on the second process, between a forward and its backward pass."""

    def loss(self, token: Any, rollout: Any) -> Any:
        if os.environ.get("RANK") == "1":
            raise ValueError("this loss is broken")
        return super().loss(token, rollout)


@dataclass(frozen=True)
class Dies(LetterTask):
    """The last prompt of the first step ends the second process at once."""

    def score(self, example: Example, text: str) -> float:
        if example.prompt == BATCHES[0][-1].prompt:
            os._exit(0)
        return super().score(example, text)


def module_of(case: str, *, shards: bool) -> ExpertTraining:
    """The module of a case, whose rollouts are factored, as those of a sharded model have to be."""
    settings = dict(HALF if case == "half" else CASES[case])
    lm = tiny(settings.pop("architecture", "llama"), dtype=settings.pop("dtype", torch.float32))
    return make_module(lr=1e-2, lm=lm, mode="factored", shards=shards, **settings)


def save_model(folder: Path) -> None:
    """Save a model of many blocks, so that one of them is a small part."""
    lm = tiny_model(layers=BLOCKS)
    lm.model.save_pretrained(folder / FILES, max_shard_size="200KB")
    lm.tokenizer.save_pretrained(folder / FILES)


def of_files(folder: Path, *, shards: bool) -> ExpertTraining:
    """A module of the saved model; its decompositions are cached."""
    lm = load_model(str(folder / FILES), by_block=shards)
    module = make_module(lm=lm, modules="mlp", lr=1e-2, mode="factored", shards=shards)
    module.adapter.cache = shards  # type: ignore[attr-defined]
    return module


def from_files(folder: Path, run_folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train the saved model; what is held meanwhile is measured."""
    os.environ["T2_CACHE"] = str(folder / CACHE)
    computed, decompose = [], t2.adapters.svd.decompose
    t2.adapters.svd.decompose = lambda weight: (computed.append(1), decompose(weight))[1]
    module = of_files(folder, shards=True)
    whole: list[int] = []
    _, blocks = decoder_blocks(module.lm.model)
    loading: list[int] = []
    read = type(module.lm.unread).read

    def reading(self: Any, prefix: str = "", *, but: str | None = None) -> None:
        read(self, prefix, but=but)
        loading.append(_held(module.lm))

    type(module.lm.unread).read = reading  # type: ignore[method-assign, union-attr]
    try:
        for block in (blocks[0], blocks[-1]):
            block.register_forward_pre_hook(lambda *_: whole.append(_held(module.lm)))
        fit(module, run_folder, steps=1, prompts=2, callbacks=[], logger=False, **options)
    finally:
        type(module.lm.unread).read = read  # type: ignore[method-assign, union-attr]
        t2.adapters.svd.decompose = decompose
    here, all_of_it = frozen_bytes(module.lm.model)
    block = frozen_bytes(blocks[0])[1]
    return {
        "z": flat(module), "here": here, "whole": all_of_it, "computed": len(computed),
        "peak": max(whole) + block,  # which is gathered in one piece, and copied into its matrices
        "loading": max(loading),
    }  # fmt: skip


def _held(lm: LanguageModel) -> int:
    """Bytes of the frozen numbers that this process holds now, by their storages."""
    storages: dict[int, int] = {}
    held: list[Tensor] = []
    for module in lm.model.modules():
        held += [one for one in (*module._parameters.values(), *module._buffers.values()) if one is not None]
        state = getattr(type(module), "_get_fsdp_state", None)
        if isinstance(module, nn.Module) and state is not None:
            for group in module._get_fsdp_state()._fsdp_param_groups:  # type: ignore[operator]
                held += [param._sharded_param_data for param in group.fsdp_params]
                held += [whole for param in group.fsdp_params for whole in param.all_gather_outputs]
    for one in held:
        local = one.to_local() if hasattr(one, "to_local") else one
        if not local.is_meta and not local.requires_grad:
            storage = local.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for where, size in storages.items() if where)


def in_two(folder: Path, rank: int) -> dict[str, Any]:
    """What each of two processes does."""
    found: dict[str, Any] = {
        case: run(case, folder / f"{case}{rank}", module=module_of(case, shards=True), **two()) for case in OF_TWO
    }
    for name, shards in {"half": True, "half whole": False}.items():
        module = module_of("half", shards=shards)
        found[name] = run("half", folder / f"{name}{rank}", module=module, steps=2, **two())
    stopped = folder / f"stopped{rank}"
    found["stopped"] = run("rloo", stopped, module=module_of("rloo", shards=True), steps=2, **two())
    alone = folder / "alone" / LAST_CHECKPOINT
    found["resumed"] = run("rloo", folder / f"on{rank}", module=module_of("rloo", shards=True), ckpt=alone, **two())
    found["files"] = from_files(folder, folder / f"files{rank}", two())
    for name, broken in {"broken": {"task": Breaks()}, "broken_update": {"objective": BreaksInUpdate()}}.items():
        found[name] = ending(make_module(shards=True, mode="factored", **broken), folder / f"{name}{rank}")
    return found


def ending(module: ExpertTraining, folder: Path) -> list[str]:
    """How a run ends that cannot go on."""
    try:
        fit(module, folder, prompts=PROMPTS, callbacks=[], logger=False, **two())
    except (ValueError, AnotherRankFailed) as error:
        return [type(error).__name__, str(error)]
    return []


def in_four(folder: Path, rank: int) -> dict[str, Any]:
    """What each of four processes does: of one machine, and of two machines with two each."""
    found = {}
    for case, (devices, machines) in OF_FOUR.items():
        os.environ |= {"LOCAL_RANK": str(rank % devices), "GROUP_RANK": str(rank // devices)}
        module, options = module_of(case, shards=True), two(devices, machines)
        found[case] = run(case, folder / f"{case}{rank}", module=module, **options)
    return found


def main(folder: Path) -> None:
    """All cases, each rank in folders of its own."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.save(in_two(folder, rank) if size == 2 else in_four(folder, rank), folder / f"found{rank}.pt")
    if size == 2:  # last, since one process does not return
        words = ending(make_module(shards=True, mode="factored", task=Dies()), folder / f"dies{rank}")
        (folder / "survived").write_text("\n".join(words))
