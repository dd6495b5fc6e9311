"""Writes an adapted model as a GGUF file: a copy of the one that the base came from, its adapted matrices in F32.

An adapted matrix is what the file has, dequantized, plus the change W' - W, which is computed in fp32 out of the
factors: also where the base was loaded in half precision, whose own rounding is not written. All other tensors keep
their quantization, and all metadata their values but the file type. llama.cpp stores the rows of a llama's query and
key matrices in another order (`permuted`). Every matrix that changes is compared with what the file has, so that a file
of another model, or an architecture with other layouts, is refused. Not done here: quantizing W' (llama.cpp's
llama-quantize), models that came from no GGUF file (llama.cpp converts a folder of `t2.experts.export_hf`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2.adapters.fused_targets import refuse_stacks
from t2.adapters.svf import SVF
from t2.adapters.svf_linear import dense_weight
from t2.experts.export_hf import CONFIG_BYTES
from t2.experts.provenance import save_provenance
from t2.models.language_model import LanguageModel
from t2.models.quantized_linear import refuse_quantized
from t2.models.sources import resolve
from t2.run.files import atomic_folder

GGUF_FILE = "model.gguf"
_COUNTS = ("block_count", "attention.head_count", "attention.head_count_kv")
_DENSE = "the file's numbers are others. Export from the dense base (quantization=none), or as a LoRA (to=lora)."
_INSTEAD = "export with to=hf, and give that folder to llama.cpp's own converter, python convert_hf_to_gguf.py FOLDER."
HALF_PRECISION = 2.0**-7  # of the largest number: what rounding to bfloat16 may change, and more than F32 does


def source_file(source: str) -> Path:
    """The GGUF file that a base model came from.

    Raises:
        ValueError: it came from none.
        OSError: the file is not there, or cannot be fetched.
    """
    if not source.endswith(".gguf"):
        raise ValueError(
            f"to=gguf changes the GGUF file that the base model came from, and {source} is none: {_INSTEAD}"
        )
    return Path(resolve(source).location)


def permuted(weight: Tensor, heads: int) -> Tensor:
    """A query or key matrix (n_out, n_in) with the rows of every head in llama.cpp's order: halves interleaved.

    Source: llama.cpp, `LlamaModel.permute` in convert_hf_to_gguf.py.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


@torch.no_grad()
def export_gguf(
    lm: LanguageModel,
    adapter: SVF,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    file: Path,
    applied: Mapping[str, Any],
) -> Path:
    """Write `model.gguf` and `export.json` to a new folder; returns the folder.

    `file` is the one that the model came from, `state` are multipliers: module -> z (R,), and those of LoRAs that the
    adapter knows.

    Raises:
        ValueError: `state` does not fit the adapted matrices, or the file's matrices are not those of the base.
        FileExistsError: the folder is there and not empty.
        OSError: the disk is full; nothing is left behind.
    """
    from gguf import GGUFReader, GGUFWriter  # here, so that everything else works without it

    reader = GGUFReader(file)
    own, changes = adapter.low_rank.of_state(state, adapter.sizes)
    assert own is not None, "a state is given"
    layouts = _Layouts(reader, adapter)
    moved = {adapter.low_rank.known[key].module for key, multiplier in changes.items() if bool((multiplier != 1).any())}
    moved |= {module for module, z in own.items() if bool((z != 1).any())}
    changed = {layouts.tensor_name(module): module for module in adapter.layers if module in moved}
    sizes = {t.name: int(t.n_elements) * 4 if t.name in changed else int(t.n_bytes) for t in reader.tensors}
    with atomic_folder(folder, needed_bytes=sum(sizes.values()) + CONFIG_BYTES) as partial:
        writer = GGUFWriter(partial / GGUF_FILE, layouts.architecture, endianess=reader.endianess)
        writer.data_alignment = reader.alignment
        _copy_metadata(reader, writer)
        _announce(reader, writer, changed)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with adapter.low_rank.applied(changes, adapter.layers):
            for tensor in reader.tensors:
                module = changed.get(tensor.name)
                data = tensor.data if module is None else layouts.merged(tensor, module, own.get(module))
                writer.write_tensor_data(data, tensor_endianess=reader.endianess)
        writer.close()
        dtype = str(lm.dtype).removeprefix("torch.")
        save_provenance(partial, to="gguf", base_model=lm.source, dtype=dtype, applied=applied)
    return folder


def _announce(reader: Any, writer: Any, changed: Collection[str]) -> None:
    """Tell the writer of every tensor: those that change are F32."""
    from gguf import GGMLQuantizationType

    for tensor in reader.tensors:
        if tensor.name in changed:
            shape, size = tuple(int(one) for one in reversed(tensor.shape)), int(tensor.n_elements) * 4
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, GGMLQuantizationType.F32)
        else:
            data = tensor.data
            writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)


class _Layouts:
    """Where a GGUF file has the matrices of an adapter, and in which layout."""

    def __init__(self, reader: Any, adapter: SVF) -> None:
        """Read the architecture and the numbers of heads."""
        refuse_stacks(adapter.stacks, "A GGUF file", "Export whole weights (to=hf)")
        for layer in adapter.layers.values():
            refuse_quantized(layer.base, _DENSE)
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        self.adapter = adapter
        self.architecture = str(reader.get_field("general.architecture").contents())
        known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
        if self.architecture not in known:
            raise ValueError(f"The GGUF file's architecture is {self.architecture!r}, which the package gguf lacks.")
        count = {key: reader.get_field(f"{self.architecture}.{key}") for key in _COUNTS}
        self.blocks, self.heads, self.key_heads = (
            None if field is None else int(field.contents()) for field in count.values()
        )
        self.names = get_tensor_name_map(known[self.architecture], self.blocks or 0)

    def tensor_name(self, module: str) -> str:
        """The name of a module's matrix in the file.

        Raises:
            ValueError: GGUF has no name for it.
        """
        found = self.names.get_name(f"{self.adapter.paths[module]}.weight", try_suffixes=(".weight",))
        if found is None:
            raise ValueError(f"GGUF has no name for {module} in the architecture {self.architecture!r}: {_INSTEAD}")
        return str(found)

    def merged(self, tensor: Any, module: str, z: Tensor | None) -> Any:
        """W' (n_out, n_in) of a module, fp32, in the file's layout; None is z = 1.

        Raises:
            ValueError: the file's W, in that layout, is not the base's.
        """
        from gguf import dequantize

        layer, learned = self.adapter.layers[module], self.adapter.learned[module]
        base = self._laid_out(module, dense_weight(layer.base))
        stored = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        allowed = HALF_PRECISION * float(stored.abs().max())
        if base.shape != stored.shape or not float((base - stored).abs().max()) <= allowed:
            raise ValueError(f"{tensor.name} of the GGUF file is not {module} of the base model: {_INSTEAD}")
        z = torch.ones(len(learned.mask)) if z is None else z
        change = self._laid_out(module, layer.change(learned.of(z).to(layer.input_factor.device)))
        return (stored + change).numpy()

    def _laid_out(self, module: str, weight: Tensor) -> Tensor:
        leaf = module.rpartition(".")[2]
        heads = {"q_proj": self.heads, "k_proj": self.key_heads or self.heads}.get(leaf)
        plain = weight.detach().float().cpu()
        return permuted(plain, heads).contiguous() if self.architecture == "llama" and heads else plain.contiguous()


def _copy_metadata(reader: Any, writer: Any) -> None:
    """Copy every field but those that the writer writes itself; the file type is left for readers to guess."""
    from gguf import GGUFValueType, LlamaFileType

    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        value = int(LlamaFileType.GUESSED) if field.name == "general.file_type" else field.contents()
        writer.add_key_value(field.name, value, kind, sub_type=field.types[-1] if kind == GGUFValueType.ARRAY else None)
