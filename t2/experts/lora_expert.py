"""A LoRA of PEFT (arXiv 2106.09685) as an expert of a pool, out of the folder that PEFT writes.

Read are `adapter_config.json` and `adapter_model.safetensors`; nothing is unpickled. In a mixture it has a mixing
weight as every expert has: W' = W + U diag(s (z - 1)) Vh + α scaling B A, so that α = 1 is the LoRA as PEFT applies it.
The matrices of a vision-language model have the names that they have in its text model, as those of experts do
(`t2.adapters.targets.text_name`).

Not done here: variants that are no sum of W and B A (DoRA), changes of other parts (biases, embeddings, whole modules),
training a LoRA (`t2.adapters.peft`), exporting an expert as one (`t2.experts.export_lora`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from t2.adapters.low_rank import LowRank
from t2.adapters.svf import SVF
from t2.experts.expert import ExpertMetadata
from t2.run.files import parse_json
from t2.run.tensor_files import read_tensors

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # PEFT's own names
MAX_ALPHA = 1e6  # far above any in use, and the factors stay finite
FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
# What the language model of a vision-language model is called, in transformers of now and of before.
TOWER = re.compile(r"(model\.)?(language_model|text_model)\.(model\.)?")
# Keys of PEFT's configuration that change something else than B A, and the values at which they do not.
PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None), "use_dora": (False, None), "modules_to_save": (None, []), "lora_bias": (False, None),
    "trainable_token_indices": (None,), "target_parameters": (None, []), "alora_invocation_tokens": (None,),
    "layer_replication": (None,), "megatron_config": (None,), "corda_config": (None,), "eva_config": (None,),
    "kasa_config": (None,), "velora_config": (None,), "arrow_config": (None,), "lora_ga_config": (None,),
    "monteclora_config": (None,), "use_bdlora": (None, False), "use_qalora": (False, None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal"),  # others take their first B A off W
}  # fmt: skip


@dataclass(frozen=True)
class LoraExpert:
    """The changes of a LoRA by module, with the scaling within B, and what is known of it."""

    changes: Mapping[str, LowRank]
    metadata: ExpertMetadata

    @classmethod
    def load(cls, folder: Path | str, domain: str) -> LoraExpert:
        """Read the folder.

        Raises:
            FileNotFoundError: one of the two files is not there.
            ValueError: it is no LoRA, or one that is more than B A.
        """
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"There is no {folder / name}. Give the folder that PEFT's save_pretrained wrote."
                )
        config = parse_json((folder / CONFIG_FILE).read_bytes(), str(folder / CONFIG_FILE), "Save the LoRA again.")
        try:
            _check_plain(config)
            changes = _changes(config, read_tensors(folder / WEIGHTS_FILE)[0])
        except ValueError as error:
            raise ValueError(f"{folder} cannot be used as a LoRA: {error}") from error
        return cls(
            changes,
            ExpertMetadata(
                base_model=str(config.get("base_model_name_or_path")), fingerprint="{}", parametrization="lora",
                task="", domain=domain, description="", objective="", step=0, t2_version="",
            ),
        )  # fmt: skip

    @property
    def rank(self) -> int:
        """The largest of its changes."""
        return max(change.input_factor.shape[0] for change in self.changes.values())

    @property
    def parameter_count(self) -> int:
        """How many numbers it holds."""
        return sum(one.output_factor.numel() + one.input_factor.numel() for one in self.changes.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its changes, hexadecimal."""
        found = hashlib.sha256()
        for module, one in sorted(self.changes.items()):
            for factor in (one.output_factor, one.input_factor):
                found.update(f"{module} {tuple(factor.shape)};".encode())
                found.update(factor.contiguous().numpy().data)
        return found.hexdigest()

    def keys(self) -> dict[str, str]:
        """Module -> the key that its change has in states; those of other LoRAs differ."""
        return {module: f"{module} lora {self.digest[:12]}" for module in self.changes}

    def attach(self, adapter: SVF) -> None:
        """Make the changes known to the adapter; ValueError where they do not fit its matrices."""
        keys = self.keys()
        adapter.low_rank.attach({keys[module]: one for module, one in self.changes.items()}, adapter.layers)

    def check_base(self, base_model: str, *, transfer: bool = False) -> None:
        """Raise ValueError unless it says that it was trained for this model; a LoRA holds nothing to tell by."""
        if not transfer and self.metadata.base_model != base_model:
            raise ValueError(
                f"the LoRA says that it is for {self.metadata.base_model}, and the loaded model is {base_model}. If "
                "they are the same weights, set transfer=true; shapes are compared in any case."
            )


def is_lora_folder(path: Path) -> bool:
    """Whether a folder looks like one that PEFT wrote."""
    return (path / CONFIG_FILE).is_file()


def _check_plain(config: Any) -> None:
    """Raise ValueError for a configuration that is no LoRA's, or of one that is more than W + B A."""
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ValueError(f"its peft_type is {kind!r}; allowed: LORA.")
    for key, plain in PLAIN.items():
        if config.get(key) not in plain:
            raise ValueError(f"its {key} is {config[key]!r}, and t2 mixes plain LoRAs, W + B A. Merge it with PEFT.")
    patterns = config.get("alpha_pattern") or {}
    by_module = list(patterns.values()) if isinstance(patterns, dict) else [patterns]
    for key, numbers in (("lora_alpha", [config.get("lora_alpha")]), ("alpha_pattern", by_module)):
        for number in numbers:
            if type(number) not in (int, float) or not abs(number) < MAX_ALPHA:
                raise ValueError(f"its {key} is {number!r}; allowed: numbers below {MAX_ALPHA:g}. Save it again.")
    if config.get("use_rslora") not in (True, False, None):
        raise ValueError(f"its use_rslora is {config['use_rslora']!r}; allowed: true or false.")


def _changes(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """The changes by module.

    Raises:
        ValueError: a tensor that is no factor, is alone, or not finite.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = FACTOR.fullmatch(name)
        if found is None or tensor.ndim != 2:
            raise ValueError(f"it changes {name}, which is no factor of a matrix. t2 mixes changes of matrices alone.")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinity.")
        factors.setdefault(found["module"], {})[found["which"]] = tensor.float()
    changes = {}
    for module, both in factors.items():
        if len(both) != 2 or both["A"].shape[0] != both["B"].shape[1]:
            raise ValueError(f"the factors of {module} do not fit: { ({k: tuple(v.shape) for k, v in both.items()}) }.")
        scaling = _scaling(config, module, both["A"].shape[0])
        name = TOWER.sub("model.", module, count=1) if TOWER.match(module) else module
        changes[name] = LowRank(name, both["B"] * scaling, both["A"])
    if not changes:
        raise ValueError("it holds no change.")
    return changes


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) of a rank-stabilized LoRA (arXiv 2312.03732), as PEFT finds them for a module."""
    from peft.utils.other import get_pattern_key  # here: it takes seconds to import

    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), module), config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
