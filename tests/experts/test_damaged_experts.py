"""Damaged and altered expert files: whatever differs in meaning is refused, with one message that names the file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from tiny_models import same_states

from t2.experts.content import MAX_MULTIPLIER
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import modules_of
from t2.run.tensor_files import read_tensors, save_tensors
from tests.experts.expert_cases import METADATA, make_expert

Scales = dict[str, torch.Tensor]
Strings = dict[str, str]
BIG = Expert(
    {f"layers.{i}.q_proj": 1 + 0.01 * torch.randn(16, generator=torch.Generator().manual_seed(i)) for i in range(6)},
    replace(METADATA, fingerprint=json.dumps({f"layers.{i}.q_proj": 10.0 for i in range(6)})),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "expert.safetensors"


def one_bit(whole: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(whole))
    return whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]


def cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))]


def zeroed(whole: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(whole) - 1)
    return whole[:at] + bytes(len(whole) - at)


def renamed(whole: bytes, chance: random.Random) -> bytes:
    """Two modules of one length exchanged in the header, as the file's keys."""
    a, b = (f'"layers.{i}.q_proj"'.encode() for i in chance.sample(range(6), 2))
    return whole.replace(a, b"\0").replace(b, a).replace(b"\0", b)


def rewritten(change: Callable[[Scales, Strings, random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    """The file written anew by another program, its checksum left as it was."""

    def mutate(whole: bytes, chance: random.Random) -> bytes:
        length = int.from_bytes(whole[:8], "little")
        strings = json.loads(whole[8 : 8 + length])["__metadata__"]
        scales = {name: z.clone() for name, z in BIG.scales.items()}
        change(scales, strings, chance)
        return save(scales, strings)

    return mutate


def one_value(scales: Scales, strings: Strings, chance: random.Random) -> None:
    z = scales[chance.choice(list(scales))]
    z[chance.randrange(len(z))] += chance.choice([1e-6, -0.5, 1e9, float("nan"), -float("inf")])


def one_string(scales: Scales, strings: Strings, chance: random.Random) -> None:
    name = chance.choice(sorted(strings))
    strings[name] = chance.choice(["", "1", f"{strings[name]} ", "nan"])


def one_module_less_or_more(scales: Scales, strings: Strings, chance: random.Random) -> None:
    module = chance.choice(list(scales))
    scales[f"{module}.copy"] = scales.pop(module) if chance.random() < 0.5 else scales[module].clone()


def one_string_less_or_more(scales: Scales, strings: Strings, chance: random.Random) -> None:
    if chance.random() < 0.5:
        del strings[chance.choice(sorted(strings.keys() - {"sha256"}))]
    strings[f"more{chance.random()}"] = "x"


MUTATIONS = (
    *(one_bit, cut, zeroed, renamed),
    *map(rewritten, (one_value, one_string, one_module_less_or_more, one_string_less_or_more)),
)


def means_the_same(path: Path) -> bool:
    try:
        scales, strings = load_file(path), safe_open(path, framework="pt").metadata()
    except SafetensorError:
        return False
    strings.pop("sha256", None)
    return strings == BIG.metadata.to_strings() and same_states(scales, dict(BIG.scales))


def test_every_one_of_a_thousand_mutants_is_refused(path: Path) -> None:
    """Without the checksum some 200 of them are read as experts."""
    BIG.save(path)
    whole, chance = path.read_bytes(), random.Random(0)
    mutants = 0
    while mutants < 1000:
        mutant = MUTATIONS[mutants % len(MUTATIONS)](whole, chance)
        if mutant == whole:
            continue
        path.write_bytes(mutant)
        if means_the_same(path):  # in another order of the header, say
            continue
        with pytest.raises(ValueError, match=path.name):
            Expert.load(path)
        mutants += 1


def test_the_same_expert_has_the_same_bytes(path: Path) -> None:
    """The library writes metadata in an order of chance."""
    assert len({BIG.save(path).read_bytes() for _ in range(8)}) == 1
    assert load_file(path).keys() == BIG.scales.keys()  # other programs read it


@pytest.mark.parametrize("z", [0.0, -0.1, MAX_MULTIPLIER, 3e7])
def test_multipliers_out_of_range_are_neither_saved_nor_read(path: Path, z: float) -> None:
    expert = make_expert()
    expert.scales["layers.0.up_proj"][1] = z
    with pytest.raises(ValueError, match=r"up_proj has 1 of 2 multipliers such as .*above 0 and below 1000"):
        expert.save(path)
    assert not path.exists()
    save_tensors(path, expert.scales, expert.metadata.to_strings())  # with a right checksum
    with pytest.raises(ValueError, match=rf"{path.name} cannot be used .* multipliers"):
        Expert.load(path)


def test_a_file_of_an_older_t2_is_read_without_a_checksum_and_checked_all_the_same(path: Path) -> None:
    expert = make_expert()
    path.write_bytes(save(dict(expert.scales), expert.metadata.to_strings()))
    assert Expert.load(path).metadata == expert.metadata
    for scales, message in (
        ({"layers.0.q_proj": torch.ones(3)}, r"lacks the scales of 1 of its 2 modules, layers\.0\.up_proj"),
        ({**expert.scales, "more": torch.ones(2)}, "scales 1 modules that its fingerprint does not know, more"),
    ):
        path.write_bytes(save(scales, expert.metadata.to_strings()))
        with pytest.raises(ValueError, match=message):
            Expert.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepp": "3"}, r"has 'stepp', which no expert has\. Did you mean 'step'"),
        ({"step": "2.5"}, "whole number"),
        ({"step": "-1"}, "whole number"),
        ({"val_after": "1.5"}, "a score is in 0 to 1"),
        ({"fingerprint": "[" * 100_000}, "A fingerprint is a JSON object"),
    ],
)
def test_metadata_that_no_expert_has(changes: Strings, message: str) -> None:
    strings = METADATA.to_strings() | changes
    with pytest.raises(ValueError, match=message):
        modules_of(ExpertMetadata.from_strings(strings).fingerprint)


def test_metadata_that_is_not_utf_8_is_a_message(path: Path) -> None:
    make_expert().save(path)
    path.write_bytes(path.read_bytes().replace("²".encode(), b"\xff\xfe"))
    with pytest.raises(ValueError, match=path.name):
        read_tensors(path)
