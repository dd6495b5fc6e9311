"""mixture.json: what was found comes back, and meets no other experts than those it was found for."""

from __future__ import annotations

import json

import pytest
from tiny_pool import make_expert, per_matrix

import t2
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import load_mixture, save_mixture
from t2.experts.pool import ExpertPool


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mixture.json"


def write(path, pool, mixture=None, **options):
    options = {"strategy": "few_shot", "task": "gcd", "seed": 3, **options}
    return save_mixture(path, mixture or Mixture.of(0.1, 1 / 3, -2.0), pool, **options)


def change(path, **fields):
    """Change fields of the file; ... removes one."""
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


@pytest.mark.parametrize("mixture", [Mixture.of(0.1, 1 / 3, -2.0), Mixture.of(1, 0, 0, rule="paper"), per_matrix(1)])
def test_a_mixture_comes_back_exactly(path, pool, mixture):
    assert load_mixture(write(path, pool, mixture), pool) == mixture


def test_the_file_tells_how_it_came_about(path, pool):
    content = json.loads(write(path, pool, details={"history": [{"best": 0.5}]}).read_text())
    assert content == {
        "format_version": 2,
        "weights": [[0.1], [1 / 3], [-2.0]],
        "rule": "delta",
        "domains": ["math", "code", "logic"],
        "pool": pool.identity,
        "strategy": "few_shot",
        "task": "gcd",
        "seed": 3,
        "details": {"history": [{"best": 0.5}]},
        "t2_version": t2.__version__,
    }


def test_the_folder_of_a_run_will_do(path, pool):
    write(path, pool)
    assert load_mixture(path.parent, pool) == load_mixture(path, pool)


def test_weights_go_by_domain_and_not_by_index(path, pool):
    write(path, pool, Mixture.of(1.0, 2.0, 3.0))
    reordered = ExpertPool(dict(reversed(pool.experts.items())))
    assert load_mixture(path, reordered) == Mixture.of(3.0, 2.0, 1.0)


def test_a_mixture_for_another_number_of_experts_is_not_written(path, pool):
    with pytest.raises(ValueError, match="mixture of 2 experts, expected 3"):
        write(path, pool, Mixture.of(1.0, 1.0))
    assert not path.exists()


def test_details_that_are_not_finite_leave_the_file_as_it_was(path, pool):
    before = write(path, pool).read_text()
    with pytest.raises(ValueError, match="finite"):
        write(path, pool, details={"fitness": [float("nan")]})
    assert path.read_text() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_a_missing_file_is_told_with_a_near_one(path, pool):
    with pytest.raises(FileNotFoundError, match="No mixture file at"):
        load_mixture(path.parent, pool)
    write(path, pool)
    with pytest.raises(FileNotFoundError, match=r"mixtures\.json\. Did you mean 'mixture\.json'\?"):
        load_mixture(path.parent / "mixtures.json", pool)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ("vision", r"mixture\.json.*made for a pool of math, code, logic; this one has .*vision"),
        ("code", "other experts of the same domains"),
    ],
)
def test_another_pool_is_refused(path, pool, domain, message):
    write(path, pool)
    with pytest.raises(ValueError, match=message):
        load_mixture(path, pool.with_expert(domain, make_expert(9)))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(path, pool, number):
    write(path, pool)
    path.write_text(path.read_text().replace("-2.0", number))
    with pytest.raises(ValueError, match=r"mixture\.json.*finite"):
        load_mixture(path, pool)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"\x80\x04K\x01."])
def test_what_is_no_mixture_is_refused(path, pool, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mixture\.json cannot be used"):
        load_mixture(path, pool)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": [[1.0], [1.0]]}, "2 rows of mixing weights for 3 domains"),
        ({"weights": [["1"], [1.0], [1.0]]}, "no lists of numbers"),
        ({"weights": [[True], [1.0], [1.0]]}, "no lists of numbers"),
        ({"weights": [1.0, 1.0, 1.0]}, "no lists of numbers"),
        ({"weights": None}, "no lists of numbers"),
        ({"weights": [[], [], []]}, "row of mixing weights"),
        ({"weights": [[1.0], [1.0, 2.0], [1.0]]}, "all of one length"),
        ({"weights": [[1.0, 2.0]] * 3}, "2 mixing weights per expert, expected 1, or 3"),
        ({"domains": "math"}, "list of names"),
        ({"domains": ["math", "math", "code"]}, "this one has math, code, logic"),
        ({"rule": "sum"}, "allowed: delta, paper"),
        ({"rule": ["delta"]}, "allowed: delta, paper"),
        ({"weights": ..., "pool": ...}, "lacks weights, pool"),
        *[({"format_version": v}, f"format_version is {v!r}; this t2 reads 2") for v in (0, 3, "2", None)],
        ({"format_version": 1}, "an older t2 wrote it, which called the mixing weights alphas"),
    ],
)
def test_damaged_and_missing_fields_are_named(path, pool, fields, message):
    change(write(path, pool), **fields)
    with pytest.raises(ValueError, match=message):
        load_mixture(path, pool)
