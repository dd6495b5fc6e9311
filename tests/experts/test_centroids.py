"""The file of centroids: what is read is what was written, and what belongs to something else is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from tiny_pool import save_pool, singular_values

from t2.experts.centroids import Centroids, Prototype, Source
from t2.experts.fingerprint import fingerprint_of
from t2.experts.pool import ExpertPool
from t2.run.results import CENTROIDS_FILE
from t2.run.tensor_files import read_tensors, save_tensors
from t2.types import OTHER

FINGERPRINT = fingerprint_of(singular_values())
ONES = Prototype(torch.ones(2), torch.ones(1))


def some_centroids(*labels: str, layer: int = 2, size: int = 4) -> Centroids:
    generator = torch.Generator().manual_seed(0)
    names = labels or ("math", "letters", OTHER)

    def prototype() -> Prototype:
        return Prototype(torch.randn(size, generator=generator), torch.rand(5, generator=generator))

    return Centroids(
        labels={label: prototype() for label in names},
        tasks={label: {f"{label} {task}": prototype() for task in ("short", "long/wide")} for label in names},
        sources={label: Source(3, "abc", 5, label) for label in names},
        layer=layer,
        base_model="org/small",
        fingerprint=FINGERPRINT,
        task="dispatch",
        accuracy={1: 0.5, 2: 1.0},
        prompts=frozenset({"0a", "0b"}),
    )


def fields(one: Centroids) -> dict[str, object]:
    def numbers(own: Mapping[str, Prototype]) -> dict[str, object]:
        return {name: (found.vector.tolist(), found.cosines.tolist()) for name, found in own.items()}

    tasks = {label: numbers(own) for label, own in one.tasks.items()}
    return vars(one) | {"labels": numbers(one.labels), "tasks": tasks}


def test_a_file_holds_all_there_is(tmp_path):
    written = some_centroids()
    path = written.save(tmp_path / CENTROIDS_FILE)
    for place in (path, str(tmp_path)):
        assert fields(Centroids.load(place)) == fields(written)
    assert written.domains == ("math", "letters")


def test_the_threshold_is_the_cosine_that_all_but_a_share_reach():
    one = Prototype(torch.ones(2), torch.arange(99.0, 0, -1))
    assert [one.threshold(share) for share in (0.05, 0.011, 0.01, 1e-6)] == [5.0, 1.0, 1.0, 1.0]


CHANGES = {
    "model": ({"base_model": "org/other"}, "of the model org/small, and org/other is loaded"),
    "weights": ({"fingerprint": fingerprint_of(singular_values(seed=1))}, "Their weights differ"),
    "layer": ({"layer": 3}, "of layer 2, and strategy.layer is 3"),
    "pool": ({"domains": ("math", "code")}, "for the domains letters, math, and the pool has code, math"),
    "fewer": ({"domains": ("math",)}, "for the domains letters, math, and the pool has math"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_those_of_another_model_layer_or_pool_are_refused(change, message):
    asked = {"domains": ("letters", "math"), "base_model": "org/small", "fingerprint": FINGERPRINT, "layer": 2}
    for fine in (asked, asked | {"layer": None}):
        some_centroids().check(fine.pop("domains"), **fine)
    wrong = {"domains": ("letters", "math"), "base_model": "org/small", "fingerprint": FINGERPRINT} | change
    with pytest.raises(ValueError, match=f"do not fit.*{message}.*Make it again"):
        some_centroids().check(wrong.pop("domains"), **wrong)


def test_all_that_does_not_fit_is_said_at_once():
    with pytest.raises(ValueError, match=r"of the model org/small.*of layer 2.*for the domains letters, math"):
        some_centroids().check(("a",), base_model="org/other", fingerprint=FINGERPRINT, layer=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format_version is 1; this t2 reads 2"),
        ({"pooling": "last token"}, "vectors are the last token; this t2 takes the mean over"),
        ({"layer": None}, "cannot be used as centroids"),
        ({"sources": {}}, "prompts of nothing"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path, changes, message):
    path = some_centroids().save(tmp_path / CENTROIDS_FILE)
    tensors, strings = read_tensors(path)
    save_tensors(path, tensors, strings | {name: json.dumps(value) for name, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        Centroids.load(path)


def test_what_is_no_file_of_centroids_is_refused(tmp_path):
    folder = save_pool(tmp_path / "pool")
    with pytest.raises(ValueError, match=r"math.safetensors cannot be used.*it is a file of something else"):
        Centroids.load(folder / "math.safetensors")
    with pytest.raises(FileNotFoundError, match=r"No centroids at .*Make it again"):
        Centroids.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {}}, "it has prototypes of nothing"),
        ({"tasks": {"math": {}, "letters": {"a": ONES}, OTHER: {"b": ONES}}}, "no task of math has a prototype"),
        ({"labels": {"math": ONES, "letters": ONES, OTHER: ONES}}, r"vectors have \[2, 4\] numbers"),
    ],
)
def test_prototypes_that_cannot_be_compared_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(some_centroids(), **changes)


@pytest.mark.parametrize(
    ("vector", "cosines", "message"),
    [
        (torch.ones(2) / 0, torch.ones(1), "not finite"),
        (torch.ones(2), torch.ones(1) / 0, "not finite"),
        (torch.ones(2), torch.ones(0), "of n prompts"),
        (torch.ones(2, 2), torch.ones(1), r"the shape \(2, 2\)"),
    ],
)
def test_a_prototype_without_numbers_is_refused(vector, cosines, message):
    with pytest.raises(ValueError, match=message):
        Prototype(vector, cosines)


# In a pool


def test_a_pool_reads_its_centroids_from_its_folder_or_from_where_they_are(tmp_path):
    folder = save_pool(tmp_path / "pool")
    assert ExpertPool.load(folder).centroids is None
    some_centroids().save(folder / CENTROIDS_FILE)
    some_centroids(layer=5).save(tmp_path / "run" / CENTROIDS_FILE)
    pool = ExpertPool.load(folder)
    assert pool.domains == ("letters", "math")
    assert pool.centroids.layer == 2
    assert ExpertPool.load(folder, centroids=tmp_path / "run").centroids.layer == 5
    files = {domain: folder / f"{domain}.safetensors" for domain in pool.domains}
    assert ExpertPool.load(files).centroids is None
    assert ExpertPool.load(files, centroids=tmp_path / "run").centroids.layer == 5


def test_a_pool_with_another_expert_keeps_centroids_and_identity_does_not_know_them(tmp_path):
    folder = save_pool(tmp_path / "pool")
    pool = ExpertPool.load(folder)
    with_them = replace(pool, centroids=some_centroids())
    assert with_them.identity == pool.identity
    assert (
        with_them.with_expert(
            "more",
            replace(pool.experts["math"], scales={name: z + 0.1 for name, z in pool.experts["math"].scales.items()}),
        ).centroids
        is with_them.centroids
    )
