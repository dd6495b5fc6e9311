"""Converts GGUF files to folders that transformers loads: dequantized to float32, once, and cached by SHA-256.

Not done here: loading the folder (`t2.models.loading`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from t2.run.fetch import cache_root, file_sha256


def dequantized(path: Path, sha256: str | None) -> Path:
    """The cached folder with the model of a GGUF file in float32; the first call for a file converts it.

    Raises:
        OSError: the file cannot be read, or the disk is full.
    """
    root = cache_root() / "models"
    target = root / (sha256.lower() if sha256 is not None else file_sha256(path))[:16]
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=root, prefix=".convert-"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        _restore_digits(tokenizer, path)
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),  # otherwise installed kernels keep it quantized
        )
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        try:
            os.rename(part, target)
        except OSError:
            if not target.is_dir():  # otherwise another process wrote the same content first
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _restore_digits(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Split digits before BPE as SmolLM's own tokenizer does; transformers drops that step for GGUF files.

    Rule: llama.cpp, `LLAMA_VOCAB_PRE_TYPE_SMOLLM` in src/llama-vocab.cpp. It matters for "\\n\\n7".
    """
    from gguf import GGUFReader  # here, so that a machine without it loads every other model

    kind = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if kind is not None and kind.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
