"""The file of `to=gguf` in llama.cpp itself: the answers that transformers gives out of the folder of `to=hf`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from t2.adapters.svf import SVF
from t2.experts.export_gguf import export_gguf, source_file
from t2.experts.export_hf import export_hf
from t2.experts.pool import ExpertPool

QUESTIONS = [
    f"State the final answer to the following arithmetic problem: {a} + {b} ="
    for a, b in ((36, 27), (27, 58), (7, 8), (94, 13), (55, 66), (12, 39), (40, 47), (63, 78), (5, 6), (88, 88))
]
NEW_TOKENS = 24


@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed: make test-harness"
)
@pytest.mark.embedded
@pytest.mark.slow
def test_llama_cpp_answers_as_transformers_does(tmp_path: Path) -> None:
    """Catches: rows in another order than llama.cpp's, a lost matrix, another tokenizer or chat template."""
    lm = instantiate(OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml"))
    svf, pool = SVF(), ExpertPool.load(ROOT / "experts" / "smollm2_135m")
    svf.inject(lm.model, lm.source)
    state = pool.multipliers("sums")
    file = source_file(lm.source)
    export_gguf(lm, svf, state, tmp_path / "gguf", file=file, applied={})
    export_hf(lm, svf, state, tmp_path / "hf", applied={}, max_shard_size="5GB")
    expected = in_transformers(tmp_path / "hf")
    assert in_llama_cpp(tmp_path / "gguf" / "model.gguf") == expected
    assert in_llama_cpp(file) != expected, "the base answers otherwise"


def in_transformers(folder: Path) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        answers.append(tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


def in_llama_cpp(file: Path) -> list[str]:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = str(file), 2048, 1, False
    settings.cpuparams.n_threads = 1  # more wait for each other busily where the machine has other work
    server = xllamacpp.Server(settings)

    def answer(question: str) -> Any:
        chat = {"messages": [{"role": "user", "content": question}], "max_tokens": NEW_TOKENS, "temperature": 0}
        return server.handle_chat_completions(chat)["choices"][0]["message"]["content"]

    return [answer(question) for question in QUESTIONS]
