"""Reading pools: from files, folders of runs and one folder, and what is told of those that make no pool."""

from pathlib import Path

import pytest
import torch
from tiny_pool import make_expert

from t2.experts.expert import EXPERT_FILE, Expert
from t2.experts.pool import ExpertPool


def save(folder: Path, name: str, expert: Expert) -> Path:
    return expert.save(folder / f"{name}.safetensors")


def test_a_pool_is_read_from_files_and_folders_of_runs(tmp_path):
    run = make_expert(2).save(tmp_path / "run" / EXPERT_FILE).parent
    pool = ExpertPool.load({"math": save(tmp_path, "a", make_expert(1)), "code": str(run)}, dispatch=run)
    assert pool.domains == ("math", "code")
    assert pool.dispatch is not None
    assert pool.dispatch.metadata.step == 2
    assert torch.equal(pool.experts["code"].scales["layers.2.q"], make_expert(2).scales["layers.2.q"])


def test_a_folder_is_a_pool_by_the_domains_of_its_files(tmp_path):
    save(tmp_path, "a", make_expert(1, domain="math"))
    save(tmp_path, "b", make_expert(2, domain="code"))
    save(tmp_path, "c", make_expert(3, domain="dispatch"))
    pool = ExpertPool.load(tmp_path)
    assert pool.domains == ("code", "math")
    assert pool.dispatch is not None
    assert pool.dispatch.metadata.step == 3


@pytest.mark.parametrize(
    ("files", "load", "error", "message"),
    [
        (
            {"gcd": {}},
            lambda folder: ExpertPool.load({"math": folder / "gcd.safetensors", "code": folder / "gdc.safetensors"}),
            FileNotFoundError,
            r"expert of 'code'.*gdc\.safetensors.*Did you mean 'gcd\.safetensors'",
        ),
        (
            {},
            lambda folder: ExpertPool.load(folder.with_name(folder.name + "s")),
            FileNotFoundError,
            r"s\. Did you mean '[^']*[^s]'\?",
        ),
        ({}, ExpertPool.load, FileNotFoundError, r"holds no \*\.safetensors"),
        (
            {"old": {"domain": "math"}, "new": {"domain": "math"}},
            ExpertPool.load,
            ValueError,
            r"two experts of the domain 'math', new\.safetensors and old\.safetensors",
        ),
        ({"c": {"domain": "dispatch"}}, ExpertPool.load, ValueError, "dispatch expert alone"),
        (
            {"a": {}, "c": {"domain": "dispatch"}},
            lambda folder: ExpertPool.load(folder, dispatch=folder / "c.safetensors"),
            ValueError,
            r"holds a dispatch expert, and dispatch=.* is another",
        ),
        ({}, lambda folder: ExpertPool.load({}), ValueError, "pool is empty"),
    ],
    ids=["file", "folder", "empty folder", "twice a domain", "dispatch alone", "two dispatch experts", "nothing"],
)
def test_files_that_make_no_pool_are_refused(tmp_path, files, load, error, message):
    for seed, (name, changes) in enumerate(files.items()):
        save(tmp_path, name, make_expert(seed, **changes))
    with pytest.raises(error, match=message):
        load(tmp_path)


def test_a_damaged_file_names_its_domain(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04not an expert")
    with pytest.raises(ValueError, match=r"expert of 'code'.*pickle"):
        ExpertPool.load({"code": tmp_path / "bad.safetensors"})
