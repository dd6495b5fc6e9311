"""The tables of docs/models.md: every architecture is there, and those that stand for the others are as it says."""

from __future__ import annotations

import re

import pytest
from zoo import BEGIN, END, PAGE, VISION_BEGIN, VISION_END, line
from zoo_models import NotBuilt, architectures, tiny_architecture
from zoo_row import Row, examine
from zoo_vision_models import tiny_vision, vision_architectures

pytestmark = pytest.mark.commands
# One of a kind: dense, sliding windows, parallel blocks, convolutions, running states, experts of every layout, an
# attention through a latent, layers that share keys.
REPRESENTATIVE = [
    "gemma3_text", "gpt_neox", "lfm2", "mamba", "falcon_h1", "gpt_oss", "qwen3_moe", "deepseek_v3", "qwen3_next",
    "jetmoe",
]  # fmt: skip
# What people use; all of it has to be green.
WANTED = [
    *REPRESENTATIVE, "llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "olmo2", "smollm3", "granite", "cohere2",
    "glm4", "mamba2", "mixtral", "olmoe", "granitemoe", "llama4_text", "bamba", "jamba", "nemotron_h", "gemma4_text",
    "glm4_moe", "lfm2_moe", "qwen3_5_text", "qwen3_5_moe_text", "phimoe", "qwen2_moe",
]  # fmt: skip
# One of a kind: M-RoPE, a mask for images, tiles of images.
REPRESENTATIVE_VISION = ["qwen2_5_vl", "gemma3", "idefics3"]
WANTED_VISION = [
    *REPRESENTATIVE_VISION, "qwen2_vl", "qwen3_vl", "gemma4", "internvl", "paligemma", "llava", "llava_next",
    "llava_onevision", "glm4v", "qwen3_vl_moe", "qwen3_5",
]  # fmt: skip


def table(begin: str = BEGIN, end: str = END) -> str:
    return PAGE.read_text().partition(begin)[2].partition(end)[0]


@pytest.mark.parametrize("architecture", REPRESENTATIVE)
def test_the_row_is_what_the_model_does(architecture: str) -> None:
    row = examine(architecture)
    assert isinstance(row, Row), row
    assert row.is_green
    assert line(row) in table().splitlines(), "Write the page again: make zoo"


@pytest.mark.parametrize("architecture", REPRESENTATIVE_VISION)
def test_the_row_is_what_the_vision_language_model_does(architecture: str) -> None:
    row = examine(architecture, vision=True)
    assert isinstance(row, Row), row
    assert row.is_green
    assert line(row) in table(VISION_BEGIN, VISION_END).splitlines(), "Write the page again: make zoo"


def test_every_architecture_of_transformers_is_on_the_page() -> None:
    tables = {table(): architectures(), table(VISION_BEGIN, VISION_END): vision_architectures()}
    for found, expected in tables.items():
        named = set(re.findall(r"(?:^\| |: |, )`([\w.-]+)`", found, re.MULTILINE))
        assert named == set(expected), "Write the page again: make zoo"


@pytest.mark.parametrize(
    ("wanted", "found"), [(WANTED, table()), (WANTED_VISION, table(VISION_BEGIN, VISION_END))], ids=["text", "vision"]
)
def test_what_people_use_is_green(wanted: list[str], found: str) -> None:
    rows = {row.split("`")[1]: row for row in found.splitlines() if row.startswith("| `")}
    assert not [name for name in wanted if name not in rows or not rows[name].endswith("| yes | all |")]
    assert not [name for name in wanted if "**no**" in rows[name]]


def test_a_family_without_a_processor_is_not_built() -> None:
    with pytest.raises(NotBuilt, match="no tiny processor is known"):
        tiny_vision("mllama")


def test_a_composite_model_is_not_built() -> None:
    with pytest.raises(NotBuilt, match="a text model in it"):
        tiny_architecture("gemma3")


def test_a_row_with_a_fault_is_not_green() -> None:
    good = Row("x", "100.0 %", "nothing", True, True, True, True, "shared", True, "all")
    assert good.is_green
    not_moved = {"step": "1 of 2: not mlp.up_proj"}
    for fault in ({"base": False}, {"merged": False}, {"states": False}, {"generation": False}, not_moved):
        assert not Row(**{**vars(good), **fault}).is_green
    assert Row(**{**vars(good), "states": None}).is_green
    assert Row(**{**vars(good), "step": "1 of 2: not self_attn.indexer.wk"}).is_green
