"""mixture.json: what was found comes back, and meets no other experts than those it was found for."""

from __future__ import annotations

import json

import pytest

import t2
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import load_mixture, save_mixture
from t2.experts.pool import ExpertPool
from tests.experts.test_pool import make_expert, per_matrix


@pytest.fixture
def pool() -> ExpertPool:
    return ExpertPool({"math": make_expert(1), "code": make_expert(2), "logic": make_expert(3)})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mixture.json"


def write(path, pool, mixture=None, **options):
    options = {"strategy": "few_shot", "task": "gcd", "seed": 3, **options}
    return save_mixture(path, mixture or Mixture.of(0.1, 1 / 3, -2.0), pool, **options)


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


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


def test_weights_go_by_domain_and_not_by_place(path, pool):
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
    write(path, pool)
    with pytest.raises(FileNotFoundError, match=r"mixtures\.json\. Did you mean 'mixture\.json'\?"):
        load_mixture(path.parent / "mixtures.json", pool)


def test_a_folder_without_a_mixture_is_told(tmp_path, pool):
    with pytest.raises(FileNotFoundError, match="No mixture file at"):
        load_mixture(tmp_path, pool)


def test_a_pool_of_other_domains_is_told_both(path, pool):
    write(path, pool)
    with pytest.raises(ValueError, match=r"mixture\.json.*made for a pool of math, code, logic; this one has .*vision"):
        load_mixture(path, pool.with_expert("vision", make_expert(9)))


def test_other_experts_of_the_same_domains_are_refused(path, pool):
    write(path, pool)
    with pytest.raises(ValueError, match="other experts of the same domains"):
        load_mixture(path, pool.with_expert("code", make_expert(9)))


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_another_version_is_refused(path, pool, version):
    change(write(path, pool), format_version=version)
    with pytest.raises(ValueError, match=f"format_version is {version!r}; this t2 reads 2"):
        load_mixture(path, pool)


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
    ],
)
def test_damaged_fields_are_named(path, pool, fields, message):
    change(write(path, pool), **fields)
    with pytest.raises(ValueError, match=message):
        load_mixture(path, pool)


def test_missing_fields_are_named(path, pool):
    content = json.loads(write(path, pool).read_text())
    del content["weights"], content["pool"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lacks weights, pool"):
        load_mixture(path, pool)


def test_a_file_of_an_older_t2_says_so(path, pool):
    change(write(path, pool), format_version=1)
    with pytest.raises(ValueError, match="an older t2 wrote it, which called the mixing weights alphas"):
        load_mixture(path, pool)
