"""By block: how far an expert moved its multipliers, and the mixing weights of a mixture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_pool import METADATA, make_expert, per_matrix

from t2.evaluation.layers import main, mean_weights, movement, movement_table, place_of
from t2.experts.expert import EXPERT_FILE, Expert
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import save_mixture
from t2.experts.pool import ExpertPool


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("model.layers.10.mlp.up_proj", (10, "mlp.up_proj")),
        ("model.layers.2.mlp.experts.gate_up_proj[31]", (2, "mlp.experts.gate_up_proj")),
        ("transformer.h.0.attn.c_attn", (0, "attn.c_attn")),
    ],
)
def test_a_matrix_has_a_block_and_a_kind(module: str, place: tuple[int, str]) -> None:
    assert place_of(module) == place


def test_movement_is_over_all_numbers_of_a_place() -> None:
    z = {
        "m.layers.0.e[0]": torch.tensor([1.1, 0.9]),
        "m.layers.0.e[1]": torch.tensor([1.0, 1.0]),
        "m.layers.1.q": torch.tensor([1.3, 1.4, 1.0]),
    }
    moved = movement(Expert(z, METADATA))
    assert moved == pytest.approx({(0, "e"): 0.005**0.5, (1, "q"): (0.25 / 3) ** 0.5}, rel=1e-5)
    assert movement_table(moved).rows == [["0", "7.07", ""], ["1", "", "28.87"]]


def test_a_module_without_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="'lm_head' is in no numbered block"):
        movement(Expert({"lm_head": torch.ones(2)}, METADATA))


def test_weights_are_means_of_a_blocks_matrices_in_natural_order() -> None:
    pool = ExpertPool({"a": make_expert(0), "b": make_expert(1)})
    assert pool.modules == ("layers.2.q", "layers.2.up", "layers.10.up")
    found = mean_weights(Mixture(((0.25, 0.75, 1.0), (0.0, 0.5, 2.0))), pool)
    assert found == {"a": {2: 0.5, 10: 1.0}, "b": {2: 0.25, 10: 2.0}}
    assert mean_weights(Mixture.of(0.5, 1.5), pool) == {"a": {2: 0.5, 10: 0.5}, "b": {2: 1.5, 10: 1.5}}
    with pytest.raises(ValueError, match="3 experts"):
        mean_weights(per_matrix(0), pool)


@pytest.fixture
def experts(tmp_path: Path) -> list[str]:
    named = []
    for seed, domain in enumerate(("a", "b")):
        expert = make_expert(seed)
        (tmp_path / domain).mkdir()
        replace(expert, metadata=replace(expert.metadata, domain=domain)).save(tmp_path / domain / EXPERT_FILE)
        named.append(f"{domain}={tmp_path / domain}")
    return named


def test_the_command_prints_and_draws(experts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = ExpertPool.load({domain: tmp_path / domain for domain in ("a", "b")})
    save_mixture(tmp_path / "mixture.json", per_matrix(3, experts=2), pool, strategy="few_shot", task="gcd", seed=0)
    main([*experts, "--mixture", str(tmp_path), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "a: root mean square of z - 1, in %" in shown
    assert "Mean mixing weight" in shown
    for name in ("movement_by_layer.png", "weights_by_layer.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
        assert name in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["somewhere"], "'somewhere' is no expert. Write DOMAIN=FILE"),
        (["a=here", "a=there"], "'a' is given twice: here and there"),
        (["a=nowhere"], "nowhere"),
        (["--mixture", "nothing.json"], "No mixture file at nothing.json"),
    ],
)
def test_bad_input_is_one_message(arguments: list[str], message: str, experts: list[str]) -> None:
    given = arguments if arguments[0] != "--mixture" else [*experts, *arguments]
    with pytest.raises(SystemExit, match=message):
        main(given)


def test_a_folder_that_cannot_be_written_is_one_message(experts: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"error: .*file"):
        main([*experts, "--out", str(tmp_path / "file")])
