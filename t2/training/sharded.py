"""A model whose blocks are sharded among the ranks of a run (trainer=fsdp): each rank holds a part of every block.

    rank 0   embeddings, head, z   | rows 1/2 of W, U s, Vh of block 1 | of block 2 | ...
    rank 1   embeddings, head, z   | rows 2/2 of W, U s, Vh of block 1 | of block 2 | ...

torch's `fully_shard` (FSDP2) puts a block together before its forward and its backward and frees it afterwards: the
same numbers as those of a whole model. Blocks are read from their files, decomposed and sharded one after another, so
that a rank never holds more than one whole block. Each machine has all of the model: blocks are put together for every
token that is decoded, at the speed of what connects the GPUs of a machine. Frozen numbers have no gradient, and none
travels between machines. z stays a plain tensor on every rank; what is learned, its gradient,
clipping, checkpoints and the division of a step are those of trainer=ddp (`t2.training.ranks`).

Lightning's `ModelParallelStrategy` looks for the model and its optimizer's parameters among the submodules of a
LightningModule, and saves and loads through them. Here the model is none, and everything that is trained is on every
rank: sharding happens in `configure_model`, and the strategy is that of trainer=ddp.

Not done here: tensor parallelism, sharding of embeddings and head, merged weights.
"""

from __future__ import annotations

import logging

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from t2.adapters.fused_targets import refuse_stacks
from t2.adapters.shardable import hold_as_parameters
from t2.adapters.svf import SVF
from t2.adapters.svf_linear import SVFLinear
from t2.adapters.targets import decoder_blocks, find_matrices
from t2.models.checks import check_model
from t2.models.language_model import LanguageModel
from t2.training.checkpoint import note_frozen_norms
from t2.training.lockstep import Lockstep

log = logging.getLogger(__name__)


def check_adapter(adapter: object) -> SVF:
    """The adapter; ValueError where it cannot be sharded with its model."""
    if isinstance(adapter, SVF):
        return adapter
    raise ValueError(
        f"trainer=fsdp shards a model with adapter=svf, and this adapter is a {type(adapter).__name__}. Use "
        "trainer=ddp, where every process holds the whole model."
    )


def shard(lm: LanguageModel, adapter: object, *, machine: int) -> Lockstep:
    """Read the blocks of `lm` one by one, inject `adapter`, and shard them among the `machine` ranks of each machine.

    Raises:
        ValueError: the model's blocks or the adapter cannot be sharded, or what injecting and checking refuse.
    """
    adapter = check_adapter(adapter)
    _, stacks = find_matrices(lm.model, adapter.modules_spec, adapter.layers_spec)
    refuse_stacks(stacks, "trainer=fsdp", "Use trainer=ddp, where every process holds the whole model")
    blocks = _Blocks(lm, adapter, machine)
    adapter.inject(lm.model, lm.source, arrive=blocks.arrive)
    blocks.finish()
    fully_shard(lm.model.base_model, mesh=blocks.mesh, ignored_params=set(_whole(lm.model)))
    lm.sharded = True
    lockstep = Lockstep(lm, blocks.mesh.get_group())
    check_model(lm)
    here, whole = frozen_bytes(lm.model)
    log.info(
        "Each process holds %.3g of %.3g GB of frozen numbers, and a block or two while they are computed.",
        *(here / 1e9, whole / 1e9),
    )
    return lockstep


def frozen_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of the frozen numbers of `model` that are on this rank, and of all of them."""
    frozen = [one for one in (*model.parameters(), *model.buffers()) if not one.requires_grad]
    sharded = [one for one in frozen if isinstance(one, DTensor)]
    storages = {
        one.untyped_storage().data_ptr(): one.untyped_storage() for one in frozen if not isinstance(one, DTensor)
    }
    same = sum(storage.nbytes() for storage in storages.values())
    parts = sum(one.to_local().numel() * one.element_size() for one in sharded)
    return same + parts, same + sum(one.numel() * one.element_size() for one in sharded)


def check_shardable(model: nn.Module) -> None:
    """Raise ValueError where the blocks of `model` cannot be sharded one by one."""
    prefix, _ = decoder_blocks(model)
    owners: dict[int, str] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        inside = name.startswith(f"{prefix}.")
        owner = name.removeprefix(f"{prefix}.").partition(".")[0] if inside else ""
        if owners.setdefault(id(weight), owner) != owner:
            raise ValueError(
                f"{type(model).__name__} has a weight that several of its blocks share, {name}: it cannot be sharded "
                "block by block. Use trainer=ddp."
            )


def _whole(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model that are not sharded."""
    return [weight for weight in model.parameters() if not isinstance(weight, DTensor)]


class _Blocks:
    """The decoder blocks of a model, of which the first `_done` are sharded and the next may be whole."""

    def __init__(self, lm: LanguageModel, adapter: SVF, machine: int) -> None:
        check_shardable(lm.model)
        self.lm, self.adapter = lm, adapter
        self.prefix, self.blocks = decoder_blocks(lm.model)
        shape = (dist.get_world_size() // machine, machine)
        self.mesh = init_device_mesh(lm.device.type, shape, mesh_dim_names=("machines", "ranks"))["ranks"]
        self._done, self._read = 0, -1
        if lm.unread is not None:
            lm.unread.read(but=f"{self.prefix}.")

    def arrive(self, path: str) -> None:
        """Have the block of the matrix called `path` be whole, and those before it sharded."""
        self._reach(int(path.removeprefix(f"{self.prefix}.").partition(".")[0]))

    def finish(self) -> None:
        """Shard what is left."""
        self._reach(len(self.blocks))
        if self.lm.unread is not None:
            self.lm.unread.check_complete()
        note_frozen_norms(self.lm.model, "", self.lm.model)

    def _reach(self, index: int) -> None:
        while self._done < index:
            self._fill(self._done)
            self._shard(self._done)
            self._done += 1
        if index < len(self.blocks):
            self._fill(index)

    def _fill(self, index: int) -> None:
        if self._read < index and self.lm.unread is not None:
            self.lm.unread.read(f"{self.prefix}.{index}.")
        self._read = index

    def _shard(self, index: int) -> None:
        block = self.blocks[index]
        note_frozen_norms(self.lm.model, f"{self.prefix}.{index}.", block)
        for module in list(block.modules()):
            if isinstance(module, SVFLinear):
                hold_as_parameters(module)
        learned = {weight for weight in block.parameters() if weight.requires_grad}
        fully_shard(block, mesh=self.mesh, reshard_after_forward=True, ignored_params=learned)
