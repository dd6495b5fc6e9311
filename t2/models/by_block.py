"""Models whose weights stay in their safetensors files until they are asked for, so that none need stand whole.

    without_weights   the model on torch's meta device: shapes, and the buffers that are computed
    UnreadWeights     reads those of one decoder block, when somebody asks for it (`t2.training.sharded`)

Names in the files have to be those of the model: transformers renames or merges the weights of some architectures while
it loads them whole, and that is not repeated here. Not done here: sharding, adapting.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from t2.models.quantized_checkpoints import method_of


@dataclass(frozen=True)
class UnreadWeights:
    """Where the weights of a model without weights are, and where they belong."""

    model: PreTrainedModel
    files: Mapping[str, Path]  # name of a tensor -> its file
    device: torch.device

    @torch.no_grad()
    def read(self, prefix: str = "", *, but: str | None = None) -> None:
        """Read the weights whose names begin with `prefix`, except those that begin with `but`, each once."""
        wanted: dict[Path, list[str]] = defaultdict(list)
        for name, path in self.files.items():
            if name.startswith(prefix) and (but is None or not name.startswith(but)):
                wanted[path].append(name)
        for path, names in wanted.items():
            with safe_open(path, framework="pt", device=str(self.device)) as file:
                for name in names:
                    self._put(name, file.get_tensor(name))

    def check_complete(self) -> None:
        """Tie what is tied; ValueError where a weight has not been read."""
        self.model.tie_weights()
        left = [name for name, weight in self.model.named_parameters() if weight.is_meta]
        if left:
            raise ValueError(f"{len(left)} weights of the model are in no file, {left[0]} for one. Download it again.")

    def _put(self, name: str, value: Tensor) -> None:
        path, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(path)
        held = getattr(module, leaf)
        if held.shape != value.shape:
            raise ValueError(
                f"The weight {name} has shape {tuple(value.shape)} in {self.files[name]}, and the model's "
                f"configuration says {tuple(held.shape)}. Download the model again."
            )
        if held.is_meta:
            weight = value.to(held.dtype)
            module.register_parameter(leaf, nn.Parameter(weight, requires_grad=False))
        elif isinstance(held, nn.Parameter):
            return  # has been read
        else:
            module.register_buffer(leaf, value.to(self.device, held.dtype))


def without_weights(auto: Any, location: str, options: Mapping[str, Any], device: torch.device) -> UnreadWeights:
    """A model of the class that `auto` chooses, without weights.

    `location` is a folder or a name on the hub, and `options` are those of `auto.from_config` and a `revision`.

    Raises:
        ValueError: names in the files are not those of the model.
        OSError: there are no safetensors files, or they cannot be fetched.
    """
    revision = {"revision": options["revision"]} if "revision" in options else {}
    config = options["config"]
    if (method := method_of(config)) is not None:
        raise ValueError(
            f"The checkpoint of {location} is quantized ({method}), and trainer=fsdp shards dense weights. Use "
            "trainer=ddp, where each device has the whole model, or the dense checkpoint."
        )
    with init_empty_weights(include_buffers=False):
        model = auto.from_config(config, **{k: v for k, v in options.items() if k not in ("config", "revision")})
    for name, buffer in dict(model.named_buffers()).items():
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = buffer.to(device)
    if cached_file(location, "generation_config.json", _raise_exceptions_for_missing_entries=False, **revision):
        model.generation_config = GenerationConfig.from_pretrained(location, **revision)
    files = _files(location, revision)
    held = set(model.state_dict())
    tied = (
        set(getattr(model, "_tied_weights_keys", None) or ()) if config.get_text_config().tie_word_embeddings else set()
    )
    wrong = sorted((set(files) - held) | (held - set(files) - tied))
    if wrong:
        raise ValueError(
            f"{len(wrong)} names in the files of {location} are not those of {type(model).__name__}, {wrong[0]} for "
            "one, so that blocks cannot be read one by one (trainer=fsdp). Load the model once and save it with "
            "save_pretrained, or use trainer=ddp."
        )
    return UnreadWeights(model, {name: files[name] for name in files}, device)


def _files(location: str, revision: Mapping[str, str]) -> dict[str, Path]:
    """The file of each tensor of a folder or a model on the hub, fetched where it is not there."""
    index = cached_file(location, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **revision)
    if index is not None:
        named: dict[str, str] = json.loads(Path(index).read_text())["weight_map"]
        paths = {file: Path(cached_file(location, file, **revision)) for file in sorted(set(named.values()))}
        return {name: paths[file] for name, file in named.items()}
    only = Path(cached_file(location, SAFE_WEIGHTS_NAME, **revision))
    with safe_open(only, framework="pt") as file:
        return dict.fromkeys(file.keys(), only)
