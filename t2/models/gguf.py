"""Converts GGUF files to folders that transformers loads: dequantized to float32, once, and cached by SHA-256.

transformers leaves out what some files say of rotary positions, and how most split text before BPE. Files with scaled
positions are refused where it has dropped the scaling; of splits the common one is restored, and others are warned of.
Not done here: loading the folder (`t2.models.loading`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from t2.run.fetch import cache_root, file_sha256
from t2.run.files import atomic_path, parse_json

log = logging.getLogger(__name__)
# Names of splits, `tokenizer.ggml.pre`, by rule. Source: llama.cpp, src/llama-vocab.cpp.
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2")
GPT2 = (
    *("gpt-2", "default", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code"),
    *("gigachat", "a.x-4.0", "mellum", "modern-bert", "roberta-bpe", "exaone4", "mpt", "olmo", "jais", "trillion"),
    "granite-docling",
)
RECORD = "from_gguf.json"  # in a folder that was converted
ROPE_TENSORS = ("rope_freqs", "rope_factors")  # Llama 3's scaling, and LongRoPE's


def dequantized(path: Path, sha256: str | None) -> Path:
    """The cached folder with the model of a GGUF file in float32; the first call for a file converts it.

    Raises:
        ValueError: its rotary positions are scaled, and transformers would load it without.
        OSError: the file cannot be read, or the disk is full.
    """
    root = cache_root() / "models"
    target = root / (sha256.lower() if sha256 is not None else file_sha256(path))[:16]
    if not target.is_dir():
        _convert(path, root, target)
    elif not (target / RECORD).is_file():  # of an older t2, which did not look
        _look_again(path, target)
    if split := parse_json((target / RECORD).read_bytes(), str(target / RECORD), "Delete its folder.")["unknown"]:
        log.warning(
            "%s splits text by the rule %r, which transformers does not know for GGUF files: text is split as GPT-2 "
            "does, and numbers, line ends or other scripts may become other tokens than the model was trained on. Load "
            "the model's safetensors folder, or its hub id, instead.", path.name, split,
        )  # fmt: skip
    return target


def _convert(path: Path, root: Path, target: Path) -> None:
    """Write the folder; nothing is left of one that fails."""
    root.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=root, prefix=".convert-"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        reader = _reader(path)
        _check_positions(path, reader)
        split = _restore_split(tokenizer, reader)
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),  # otherwise installed kernels keep it quantized
        )
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        _write_record(part, split)
        try:
            os.rename(part, target)
        except OSError:
            if not target.is_dir():  # otherwise another process wrote the same content first
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _look_again(path: Path, target: Path) -> None:
    """Check a folder that has no record, mend its tokenizer, and write the record."""
    reader, tokenizer = _reader(path), AutoTokenizer.from_pretrained(target)
    _check_positions(path, reader)
    was_plain = _splits_as_gpt2(tokenizer)
    split = _restore_split(tokenizer, reader)
    if was_plain and not _splits_as_gpt2(tokenizer):
        tokenizer.save_pretrained(target)
    _write_record(target, split)


def _write_record(folder: Path, unknown: str | None) -> None:
    with atomic_path(folder / RECORD) as partial:
        partial.write_text(json.dumps({"unknown": unknown}) + "\n")


def _restore_split(tokenizer: PreTrainedTokenizerBase, reader: Any) -> str | None:
    """Split digits before BPE where the model's own tokenizer does; transformers drops that step for GGUF files.

    It matters for "\\n\\n7" of SmolLM. Returned is the name of a split that nobody knows here, so that text is split as
    GPT-2 does; None where there is none.
    """
    kind, model = (reader.get_field(f"tokenizer.ggml.{key}") for key in ("pre", "model"))
    name = None if kind is None else str(kind.contents())
    if name in DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    is_byte_level = model is not None and model.contents() == "gpt2"
    return name if is_byte_level and name not in GPT2 and _splits_as_gpt2(tokenizer) else None


def _splits_as_gpt2(tokenizer: PreTrainedTokenizerBase) -> bool:
    return isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)


def _check_positions(path: Path, reader: Any) -> None:
    """Raise ValueError where a file scales rotary positions and its configuration, as it was read, does not.

    Such a model would compute something else from the first token on (Llama 3), or beyond the length that it was first
    trained for.
    """
    found = _scaling_of(reader)
    if found is None:
        return
    config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    given = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = {one.get("rope_type", "default") for one in (given, *given.values()) if isinstance(one, dict)}
    if kinds <= {"default"}:
        raise ValueError(
            f"{path} scales its rotary positions ({found}), and transformers leaves that out of a GGUF file, so that "
            "the model would be another one. Load the same model's safetensors: base_model.source=FOLDER, or its hub "
            "id."
        )


def _scaling_of(reader: Any) -> str | None:
    """What of a GGUF file says that rotary positions are scaled; None where nothing does.

    Source: llama.cpp, src/llama-model.cpp: a factor without a type is linear.
    """
    for tensor in reader.tensors:
        if tensor.name.startswith(ROPE_TENSORS) and bool((tensor.data != 1).any()):
            return str(tensor.name)
    told = {name: field.contents() for name, field in reader.fields.items() if ".rope.scaling." in name}
    kinds = {name: value for name, value in told.items() if name.endswith(".type")}
    factors = {name: value for name, value in told.items() if name.endswith(".factor") and value not in (0, 1)}
    scaled = {name: value for name, value in kinds.items() if value != "none"} if kinds else factors
    return next((f"{name} = {value}" for name, value in scaled.items()), None)


def _reader(path: Path) -> Any:
    from gguf import GGUFReader  # here, so that a machine without it loads every other model

    return GGUFReader(path)
