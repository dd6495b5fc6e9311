"""GGUF files as they are loaded: what transformers leaves out of them is restored, refused, or warned of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGUFWriter, RopeScalingType
from tiny_gguf import write_gguf
from tiny_models import tiny

from t2.models.gguf import RECORD
from t2.models.loading import load_model
from t2.run.fetch import file_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("T2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def written(folder: Path, more: Callable[[GGUFWriter], None]) -> str:
    write_gguf(tiny(), folder / "tiny.gguf", more)
    return str(folder / "tiny.gguf")


def frequencies(name: str, value: float) -> Callable[[GGUFWriter], None]:
    return lambda writer: writer.add_tensor(name, np.array([1.0, 1.0, value, value], dtype=np.float32))


def linear(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (frequencies("rope_freqs.weight", 8.0), "rope_freqs.weight"),
        (frequencies("rope_factors_long.weight", 2.0), "rope_factors_long.weight"),
        (linear, r"llama\.rope\.scaling\.type = linear"),
        (lambda writer: writer.add_rope_scaling_factor(4.0), r"llama\.rope\.scaling\.factor = 4"),
    ],
)
def test_scaled_positions_are_refused(
    more: Callable[[GGUFWriter], None], named: str, tmp_path: Path, cache: Path
) -> None:
    """Catches a Llama 3.1 that computes other logits than llama.cpp out of the same file."""
    path = written(tmp_path, more)
    with pytest.raises(ValueError, match=rf"tiny\.gguf scales its rotary positions \({named}.*safetensors"):
        load_model(path)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "more",
    [
        frequencies("rope_freqs.weight", 1.0),
        lambda writer: writer.add_rope_scaling_type(RopeScalingType.NONE),
        lambda writer: writer.add_rope_scaling_factor(1.0),
    ],
)
def test_what_scales_nothing_is_loaded(more: Callable[[GGUFWriter], None], tmp_path: Path) -> None:
    assert load_model(written(tmp_path, more)).context_length == 512


def test_a_scaling_that_transformers_reads_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, own = written(tmp_path, linear), tiny().model.config
    own.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    monkeypatch.setattr("t2.models.gguf.AutoConfig", SimpleNamespace(from_pretrained=lambda *_, **__: own))
    assert load_model(path).context_length == 512


def test_a_folder_that_an_older_version_converted_is_looked_at_again(tmp_path: Path, cache: Path) -> None:
    path = written(tmp_path, lambda writer: writer.add_tokenizer_pre("gpt-2"))
    load_model(path)
    (record,) = cache.glob(f"*/{RECORD}")
    folder = record.parent
    for change, text in ((linear, "scales"), (lambda writer: writer.add_tokenizer_pre("refact"), "")):
        other = written(tmp_path, change)
        folder = folder.rename(cache / file_sha256(Path(other))[:16])
        (folder / RECORD).unlink(missing_ok=True)
        if text:
            with pytest.raises(ValueError, match=text):
                load_model(other)
        else:
            assert load_model(other).tokenizer.tokenize("123") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("pre", "tokens", "warns"),
    [
        *[(pre, ["1", "2", "3"], False) for pre in ("smollm", "starcoder", "refact", "command-r", "exaone")],
        ("gpt-2", ["123"], False),
        ("default", ["123"], False),
        ("llama-bpe", ["123"], False),
        ("deepseek-coder", ["123"], True),
    ],
)
def test_numbers_are_split_as_in_llama_cpp_or_a_warning_says_so(
    pre: str, tokens: list[str], warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, lambda writer: writer.add_tokenizer_pre(pre))
    for _ in range(2):  # converted, and out of the cache
        caplog.clear()
        assert load_model(path).tokenizer.tokenize("123") == tokens
        told = [one.getMessage() for one in caplog.records if "splits text by the rule" in one.getMessage()]
        assert [f"'{pre}'" in text for text in told] == [True] * warns
