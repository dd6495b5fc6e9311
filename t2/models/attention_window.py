"""How far back the layers of a model attend, whatever their configuration calls it."""

from __future__ import annotations

from transformers import PretrainedConfig


def shortest_window(config: PretrainedConfig) -> int | None:
    """The shortest attention window of a layer in tokens; None where all of them attend to every token.

    Llama 4 attends within chunks, and the local layers of GPT-Neo have a key of their own.
    """
    text = config.get_text_config()
    windows = [getattr(text, "sliding_window", None), getattr(text, "attention_chunk_size", None)]
    if "local" in getattr(text, "attention_layers", ()):
        windows.append(text.window_size)
    return min((window for window in windows if window is not None and window > 0), default=None)
