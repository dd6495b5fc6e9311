"""A GGUF file made into a folder that transformers loads at once: dequantized to float32 the first time it is seen.

The folder lies in the cache under the file's sha256. Nothing here runs a model.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from t2.run.fetch import cache_root, file_sha256


def dequantized(path: Path, sha256: str | None) -> Path:
    """The folder with a GGUF file's model in float32, made the first time a file is seen."""
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
            quantization_config=GgufConfig(dequantize=True),  # else installed kernels would keep it packed
        )
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        try:
            os.rename(part, target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _restore_digits(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Split digits off before BPE as SmolLM's own tokenizer does; transformers forgets it for GGUF files.

    Rule: llama.cpp, `LLAMA_VOCAB_PRE_TYPE_SMOLLM` in src/llama-vocab.cpp. It matters for "\\n\\n7".
    """
    kind = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if kind is not None and kind.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
