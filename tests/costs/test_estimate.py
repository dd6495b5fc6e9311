"""What a run needs adds up by phase, and what is configured counts where it is used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cost_model import shape

from t2.adapters.truncated_svd import BLOCKS, EXTRA
from t2.costs.estimate import Run, disk_parts, estimate, svd_flops
from t2.costs.gpus import find_gpu, gpus
from t2.costs.placement import Placement, Way
from t2.costs.step import Work

H100 = gpus()["h100"]
RUN = Run(Work(), steps=10, validations=3, validation_rows=50)
LARGE = shape("8b")


def test_the_fullest_phase_counts_and_its_parts_add_up() -> None:
    found = estimate(LARGE, RUN, H100)
    parts = found.parts
    stays = sum(parts[name] for name in ("program", "weights", "factors", "blocks", "z and AdamW"))
    assert found.phases["update"] == stays + parts["activations"] + parts["logits"]
    assert found.phases["rollout"] == stays + parts["merged"] + parts["cache"]
    assert found.phases["load"] == stays + parts["decomposition"]
    assert found.needed == found.phases["rollout"]
    spent = found.seconds
    assert spent["step"] == pytest.approx(spent["merge"] + spent["rollout"] + spent["update"])
    assert spent["run"] == pytest.approx(spent["decomposition"] + 10 * spent["step"] + spent["validations"])


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_validations_are_divided_over_the_ranks(way: Way) -> None:
    divided = estimate(LARGE, replace(RUN, placement=Placement(way, machines=2), validation_rows=200), H100).seconds
    half = estimate(LARGE, replace(RUN, validation_rows=100), H100).seconds
    assert divided["validations"] == pytest.approx(half["validations"])


def test_a_cpu_takes_more_than_is_counted() -> None:
    cpu = estimate(LARGE, RUN, replace(H100, is_cpu=True)).parts
    assert cpu["surplus"] == pytest.approx(0.3 * (cpu["activations"] + cpu["logits"]))
    assert estimate(LARGE, RUN, H100).parts["surplus"] == 0


def test_validations_have_a_length_of_their_own() -> None:
    found, longer = (estimate(LARGE, replace(RUN, validation_tokens=n), H100) for n in (None, 400))
    assert estimate(LARGE, replace(RUN, validation_tokens=RUN.work.new_tokens), H100) == found
    assert longer.seconds["validations"] > 1.5 * found.seconds["validations"]
    assert longer.seconds["step"] == found.seconds["step"]
    assert longer.parts["cache"] == found.parts["cache"] * 500 / 300


def test_what_does_not_happen_costs_nothing() -> None:
    found = {
        "sft": estimate(LARGE, replace(RUN, samples_rollouts=False), H100),
        "es": estimate(LARGE, replace(RUN, has_backward=False, members=16), H100),
        "remote": estimate(LARGE, replace(RUN, is_remote=True), H100),
    }
    assert found["sft"].seconds["rollout"] == found["remote"].parts["cache"] == 0
    assert found["es"].seconds["update"] == found["es"].parts["activations"] == 0
    assert found["remote"].parts["merged"] == 0
    one = estimate(LARGE, RUN, H100).seconds
    assert found["es"].seconds["rollout"] > 8 * one["rollout"]  # more completions read the same weights
    both = estimate(LARGE, replace(RUN, updates=2, has_reference=True), H100).seconds
    assert both["update"] == pytest.approx(3 * one["update"])


def test_the_larger_of_rollouts_and_validations_counts() -> None:
    """A rollout holds a prompt once for its samples, a validation of as many completions one for each."""
    run = replace(RUN, validations=0)
    token = 2 * 2 * LARGE.kv  # keys and values of a block, two bytes each
    rollout = token * (LARGE.blocks * (8 * 100 + 48 * 200) + 48 * 300)
    validation = token * (LARGE.blocks + 1) * 50 * 300
    assert estimate(LARGE, run, H100).parts["cache"] == rollout
    assert estimate(LARGE, RUN, H100).parts["cache"] == validation > rollout
    imitating = replace(run, samples_rollouts=False)
    assert estimate(LARGE, imitating, H100).parts["merged"] == 0
    assert estimate(LARGE, replace(imitating, validations=1), H100).parts["cache"] == validation
    members = estimate(LARGE, replace(run, members=2), H100).parts["cache"]
    assert members == token * (LARGE.blocks * (11 * 100 + 64 * 200) + 64 * 300)  # batch_rows of 96


def test_decompositions_of_the_largest_triplets_are_kept_thin() -> None:
    whole, top = disk_parts(LARGE, RUN), disk_parts(LARGE, replace(RUN, work=Work(rank=16), top_alone=True))
    assert whole["decompositions"] == pytest.approx(38.9e9, rel=2e-3)  # docs/one-gpu.md
    assert top["decompositions"] < 0.01 * whole["decompositions"]
    thin = svd_flops((4096, 1024), Work(rank=16), top_alone=True)
    assert thin == 4 * 4096 * 1024 * (16 + EXTRA) * BLOCKS[0]
    more = svd_flops((4096, 1024), Work(rank=300), top_alone=True)
    assert more == pytest.approx(2 * 4096 * 1024**2 + 4 / 3 * 1024**3 + 2 * 1024**2 * 300)
    full = svd_flops((1024, 4096), Work(rank=16), top_alone=False)
    assert full == 6 * 4096 * 1024**2 + 20 * 1024**3
    assert disk_parts(LARGE, replace(RUN, keeps_decompositions=False))["decompositions"] == 0


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("h100", "H100 SXM"),
        ("RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("H100-PCIe", "H100 PCIe"),
        ("l40s", "L40S"),
    ],
)
def test_a_gpu_is_found_by_what_it_is_called(name: str, meant: str) -> None:
    assert find_gpu(name).name == meant


@pytest.mark.parametrize(("name", "said"), [("rtx", "may be RTX"), ("h1000", "Did you mean"), ("", "allowed: h100")])
def test_another_gpu_is_refused_with_those_there_are(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_gpu(name)


def test_the_table_is_complete() -> None:
    assert all(gpu.bandwidth > gpu.link >= 0 and gpu.memory_bytes > 1e10 for gpu in gpus().values())
    assert not gpus()["t4"].has_bfloat16
