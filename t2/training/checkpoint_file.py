"""The files of a run's checkpoints: written durably, the previous one kept, damage found before anything is restored.

    checkpoints/last.ckpt        of the latest step that was saved
    checkpoints/previous.ckpt    of the one before; read where `last.ckpt` is damaged or gone

`last.ckpt` is renamed into place after it has reached the disk, and the one it replaces is linked as `previous.ckpt`
before: at each instant `last.ckpt` is a whole file. Lightning's own writer goes through the folder of temporary files,
which may be on another file system, where a move is a copy that a kill can cut short, and flushes nothing.

Checkpoints are zip archives of torch.save with a CRC-32 of each member, which torch itself does not compare.
Not here: whether a checkpoint belongs to the model at hand (`t2.training.checkpoint`).
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from t2.run.files import atomic_path
from t2.run.signals import served_after

log = logging.getLogger(__name__)
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
PREVIOUS_CHECKPOINT = Path("checkpoints") / "previous.ckpt"
# What zipfile and torch raise at a damaged archive, with NotImplementedError (a RuntimeError) and UnicodeDecodeError.
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(RuntimeError, EOFError, ValueError, KeyError, OverflowError, OSError),
)
_PARTS = ("t2", "state_dict", "callbacks", "loops", "optimizer_states", "lr_schedulers", "global_step")


class DurableCheckpoints(TorchCheckpointIO):
    """How a trainer writes and reads checkpoints; `Checkpoints` gives it to the trainer's strategy."""

    def __init__(self) -> None:
        """Nothing is known to be damaged."""
        self.damaged: set[Path] = set()  # never kept as the previous checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to `path`, keeping what was there as `previous.ckpt`; signals are served after it.

        Raises:
            OSError: the file cannot be written, a full disk included; what was there is untouched.
        """
        assert storage_options is None, "a local file has no storage options"
        path = Path(path)
        with served_after():
            with atomic_path(path) as partial:
                torch.save(checkpoint, partial)
                if path.is_file() and path not in self.damaged:
                    _keep(path, path.with_name(PREVIOUS_CHECKPOINT.name))
            self.damaged.discard(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the checkpoint at `path`, or the previous one with a warning where that is damaged or gone.

        `weights_only` must not be False: a checkpoint holds tensors, numbers and text, and no code is run to read it.

        Raises:
            ValueError: neither can be read.
        """
        assert weights_only is not False, "checkpoints are read as data"
        path = Path(path)
        previous = path.with_name(PREVIOUS_CHECKPOINT.name)
        try:
            return read_checkpoint(path)
        except ValueError as error:
            reason = error
        self.damaged.add(path)
        try:
            checkpoint = read_checkpoint(previous)
        except ValueError as error:
            raise ValueError(
                f"The run cannot go on: {reason}, and {error}. Train anew in another folder; the best expert so far, "
                "if the run has one, can be used as it is."
            ) from None
        log.warning(
            "%s. The run goes on from the checkpoint before, %s, at step %d.",
            reason,
            previous,
            checkpoint["global_step"],
        )
        return checkpoint


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, its checksums compared; nothing in it is run.

    Raises:
        ValueError: the file is not there, damaged, or no checkpoint of a training run of t2.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
        if member is not None:
            raise zipfile.BadZipFile(f"the checksum of {member} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} holds more than tensors, numbers and text, so t2 did not write it") from None
    except DAMAGED as error:
        words = str(error).splitlines()[:1] or [type(error).__name__]
        raise ValueError(f"{path} is damaged ({words[0]})") from None
    lacking = [part for part in _PARTS if not isinstance(content, dict) or part not in content]
    if lacking:
        raise ValueError(f"{path} is no checkpoint of a training run of t2: it has no {', '.join(lacking)}")
    return dict(content)


def _keep(path: Path, previous: Path) -> None:
    """Give the file at `path` the name `previous` as well, in the place of the file that had it."""
    with atomic_path(previous) as partial:
        partial.unlink()
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, partial)
