"""The attention window of a model is found under each of its names."""

import pytest
from transformers import AutoConfig

from t2.models.attention_window import shortest_window


@pytest.mark.parametrize(
    ("family", "settings", "window"),
    [
        ("mistral", {"sliding_window": 64}, 64),
        ("mistral", {"sliding_window": None}, None),
        ("llama4_text", {"attention_chunk_size": 48}, 48),
        ("gpt_neo", {"window_size": 32, "num_layers": 2, "attention_types": [[["global", "local"], 1]]}, 32),
        ("gpt_neo", {"window_size": 32, "num_layers": 2, "attention_types": [[["global"], 2]]}, None),
        ("modernbert-decoder", {"local_attention": 0}, None),
    ],
)
def test_the_shortest_attention_window_is_known(family: str, settings: dict, window: int | None) -> None:
    assert shortest_window(AutoConfig.for_model(family, **settings)) == window
