"""How long a context is: as the config says, without end for a running state, up to the switch of LongRoPE."""

from __future__ import annotations

import logging
import sys

import pytest
from transformers import AutoConfig, MambaConfig

from t2.models.context_length import context_length


def test_it_is_what_the_config_says() -> None:
    assert context_length(AutoConfig.for_model("llama", max_position_embeddings=77), "it", is_recurrent=False) == 77
    assert context_length(MambaConfig(), "it", is_recurrent=True) == sys.maxsize
    with pytest.raises(ValueError, match="it: the config names no max_position_embeddings"):
        context_length(MambaConfig(), "it", is_recurrent=False)


@pytest.mark.parametrize(("original", "length"), [(100, 100), (512, 512)])
def test_it_ends_where_longrope_switches(original: int, length: int, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond, a log-prob depends on what a prompt is batched with."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": original, **factors}
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 512, "pad_token_id": 0}
    config = AutoConfig.for_model("phi3", **sizes, original_max_position_embeddings=original, rope_parameters=rope)
    with caplog.at_level(logging.INFO):
        assert context_length(config, "it", is_recurrent=False) == length
    assert ("the first 100 are used" in caplog.text) == (original == 100)
