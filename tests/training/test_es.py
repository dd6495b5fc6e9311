"""Evolution strategies: the estimate in closed form, what it refuses, and training runs on letters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LetterTask
from training_run import PART, fit, flat, make_module

from t2.run.metrics_file import read_metrics
from t2.training.callbacks import Checkpoints, Validation
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.es import ES, PopulationObjective, antithetic_gradient, shape_fitness
from t2.training.module import ExpertTraining
from t2.training.objectives import RLOO
from t2.types import Example, Sampling

# The estimate


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shaping", ["center", "standardize", "rank"])
def test_the_estimate_is_the_gradient_of_a_quadratic(shaping: str) -> None:
    """f = -(x - c)' A (x - c): a pair's difference is 2 sigma grad f . e exactly, so its mean is -grad f."""
    size, sigma, pairs = 5, 0.3, 1000
    root, x, c = normal(size, size), normal(size, seed=1), normal(size, seed=2)
    a = root @ root.T
    slope = -2 * a @ (x - c)
    noise = normal(pairs, size, seed=3)
    points = torch.stack([x + sigma * noise, x - sigma * noise], dim=1).flatten(0, 1) - c  # (P, n)
    fitness = -torch.einsum("pi,ij,pj->p", points, a, points)
    found = antithetic_gradient(shape_fitness(fitness, shaping), lambda pair: [noise[pair]], sigma)
    assert found is not None
    if shaping == "center":
        assert float((found[0] + slope).norm() / slope.norm()) < 0.16  # about the root of 6 / 1000, twice
    assert float(torch.cosine_similarity(found[0], -slope, dim=0)) > 0.98


@pytest.mark.parametrize(
    ("shaping", "fitness", "expected"),
    [
        ("rank", [0.1, 0.9, 0.5, 0.7], [-0.5, 0.5, -1 / 6, 1 / 6]),
        ("rank", [0.5, 0.5, 0.9, 0.1], [0.0, 0.0, 0.5, -0.5]),  # equal ones share their mean rank
        ("rank", [0.5, 0.5 + 1e-9, 0.5, 0.5], [0.0] * 4),
        ("center", [0.0, 1.0, 0.5, 0.5], [-0.5, 0.5, 0.0, 0.0]),
        ("standardize", [0.0, 2.0], [-(0.5**0.5), 0.5**0.5]),
        ("standardize", [0.5, 0.5 + 1e-9], [0.0, 0.0]),
        ("center", [1 / 3] * 4, [0.0] * 4),
    ],
)
def test_shaped_fitness(shaping: str, fitness: list[float], expected: list[float]) -> None:
    found = shape_fitness(torch.tensor(fitness, dtype=torch.float64), shaping)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert [bool(one) for one in found] == [bool(one) for one in expected]  # zeros are exact


@pytest.mark.parametrize("shaping", ["rank", "center", "standardize"])
def test_equal_fitness_is_no_gradient_at_all(shaping: Any) -> None:
    """Of all members, and of the two of each pair."""
    es = ES(population_size=4, shaping=shaping)
    rewards = torch.full((12, 2), 0.7)  # 4 members, 3 prompts, 2 samples
    assert torch.equal(es.advantages(rewards, rewards > 1), torch.zeros(12, 2).double())
    paired = torch.tensor([0.3, 0.3, 0.9, 0.9]).double()
    assert antithetic_gradient(shape_fitness(paired, shaping), lambda _: [torch.ones(1)], 0.1) is None


def test_a_members_fitness_is_the_mean_over_its_rows_alone() -> None:
    es, scores = ES(population_size=2, shaping="center"), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    cut = torch.tensor([[True, False], [False] * 2, [False] * 2, [False] * 2])
    shaped = es.advantages(es.rewards(scores, cut), cut)
    torch.testing.assert_close(shaped, torch.tensor([[0.25] * 2] * 2 + [[-0.25] * 2] * 2).double())
    wrong = replace(es, truncated="wrong")
    torch.testing.assert_close(wrong.advantages(wrong.rewards(scores, cut), cut)[0, 0], torch.tensor(0.125).double())


# What it refuses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": 3}, "population_size is 3; allowed: an even number, at least 2"),
        ({"population_size": 1}, "population_size is 1; allowed: an even number"),
        ({"population_size": 0}, "population_size is 0"),
        ({"sigma": 0.0}, r"sigma is 0\.0; allowed: above 0"),
        ({"shaping": "ranks"}, "shaping is 'ranks'; allowed: center, rank, standardize"),
        ({"truncated": "drop"}, "truncated is 'drop'; allowed: keep, wrong"),
        ({"population_rows": 0}, "population_rows is 0; allowed: at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ES(**options)


def test_equal_samples_and_parts_without_states_per_example_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 samples of each prompt, which are all the same"):
        ES().check_sampling(Sampling(samples=4))
    ES().check_sampling(Sampling())
    module = make_module()
    with pytest.raises(ValueError, match=r"object cannot generate with\. Use generation=hf"):
        ES().check_parts(module.adapter, object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"object cannot apply\. Use adapter=svf"):
        ES().check_parts(object(), module.generator)  # type: ignore[arg-type]
    assert isinstance(ES(), PopulationObjective)
    assert not isinstance(RLOO(), PopulationObjective)


# Runs


def es_module(task: LetterTask | None = None, size: int = 6, **settings: Any) -> ExpertTraining:
    module = make_module(objective=ES(population_size=size, sigma=0.2), task=task, **settings)
    module.sampling = replace(module.sampling, samples=1)
    return module


def test_climbs_the_letters_and_leaves_the_base_alone(tmp_path: Path) -> None:
    module, validation = es_module(size=32, lr=0.1, total_steps=20), Validation(every=20)
    module.settings = replace(module.settings, clip_norm=1.0)
    before = {name: value.clone() for name, value in module.lm.model.state_dict().items()}
    fit(module, tmp_path, steps=20, prompts=6, logger=False, callbacks=[validation])
    first, last = (sum(validation.reports[step]) for step in (0, 20))
    assert last > first + 2, validation.reports  # of 8
    after = module.lm.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "parametrization" not in name)


@pytest.mark.parametrize("settings", [{}, PART], ids=str)
def test_resuming_ends_at_the_same_numbers(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole, first, second = (es_module(lr=2e-2, **settings) for _ in range(3))
    fit(whole, tmp_path / "whole", steps=4)
    fit(first, tmp_path / "parts", steps=2)
    assert not torch.equal(flat(first), flat(whole))
    torch.manual_seed(999)
    fit(second, tmp_path / "parts", steps=4, ckpt=tmp_path / "parts" / LAST_CHECKPOINT)
    assert torch.equal(flat(second), flat(whole))
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    spent = [float(row["rollout/tokens"]) for row in rows.values() if "rollout/tokens" in row]
    totals = [float(row["rollout/tokens_total"]) for row in rows.values() if "rollout/tokens" in row]
    assert totals == [sum(spent[: at + 1]) for at in range(4)]
    assert {float(row["es/fitness_std"]) > 0 for row in rows.values() if "es/fitness_std" in row} == {True}
    assert whole.last_step is not None
    assert len(whole.last_step.examples) == 6 * 3


def test_equal_scores_leave_z_alone_and_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Indifferent(LetterTask):
        def score(self, example: Example, text: str) -> float:
            return 0.0

    module = es_module(Indifferent(), size=2)
    fit(module, tmp_path, callbacks=[Checkpoints()])
    assert torch.equal(flat(module), torch.ones_like(flat(module)))
    assert "For 5 steps all members of the population have had the same reward" in caplog.text
