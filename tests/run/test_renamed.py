"""Names of an older t2: each override, target and saved file says what it is called now."""

import importlib
from pathlib import Path

import pytest
from conftest import ROOT

from t2.run.launch_overrides import check_overrides
from t2.run.launch_resume import resume_arguments
from t2.run.renamed import MOVED_MODULES, RENAMED_CHOICES, RENAMED_KEYS, old_targets, renamed_target, target_in


@pytest.mark.parametrize("new", MOVED_MODULES.values())
def test_what_was_renamed_is_there_under_its_new_name(new):
    module, _, name = new.rpartition(".")
    if name[0].isupper() or name == "load_model":
        assert hasattr(importlib.import_module(module), name)
    else:
        importlib.import_module(new)


@pytest.mark.parametrize("old", MOVED_MODULES)
def test_old_names_are_gone(old):
    module = old if old.rpartition(".")[2].islower() else old.rpartition(".")[0]
    if old == "t2.models.load_model":
        assert not hasattr(importlib.import_module("t2.models"), "load_model")
    elif old in ("t2.adaptation.Adaptation", "t2.training.callbacks.SampleTable"):  # whose module is still there
        assert not hasattr(importlib.import_module(module), old.rpartition(".")[2])
    else:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(module)


def test_the_longest_old_name_counts():
    assert renamed_target("t2.strategies.search.AlphaSpace") == "t2.adaptation.mixture_space.MixtureSpace"
    assert renamed_target("t2.strategies.search.SearchSettings") == "t2.adaptation.search.SearchSettings"
    assert renamed_target("t2.strategiesque.X") is None
    assert renamed_target("lightning.Trainer") is None


def test_targets_are_found_at_any_depth():
    config = {"a": [{"_target_": "t2.pool.ExpertPool.load"}], "b": {"_target_": "t2.types.Sampling", "c": None}}
    assert list(old_targets(config)) == ["t2.pool.ExpertPool.load"]


@pytest.mark.parametrize(
    ("script", "override"),
    [
        *(("evaluate", f"{key}=rows") for key in RENAMED_KEYS),
        *(("train", choice) for choice in RENAMED_CHOICES),
        ("evaluate", "+strategy.alphas={gcd: 1.0}"),
    ],
)
def test_an_old_override_says_what_to_write(script, override):
    with pytest.raises(ValueError, match=r"that was renamed\. Write "):
        check_overrides(ROOT / "conf", script, [override])


def test_resuming_an_old_run_says_so_in_one_message(tmp_path: Path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    (tmp_path / ".hydra/config.yaml").write_text("callbacks:\n  validation:\n    _target_: t2.callbacks.Validation\n")
    with pytest.raises(SystemExit, match=r"an older t2 started this run.*now t2\.training\.callbacks\.Validation"):
        resume_arguments([f"resume={tmp_path}"])


def test_a_pool_of_ones_own_with_an_old_target_says_what_it_is_called_now(run_script, tmp_path, caplog, capsys):
    with pytest.raises(SystemExit):
        run_script(
            "evaluate", "base_model=tiny", "+experts._target_=t2.pool.ExpertPool.load", f"+experts.experts={tmp_path}",
            f"hydra.run.dir={tmp_path / 'run'}",
        )  # fmt: skip
    assert (
        "t2.pool.ExpertPool.load, which is now t2.experts.pool.ExpertPool.load" in caplog.text + capsys.readouterr().out
    )


def test_hydras_message_names_the_target():
    assert target_in("Error locating target 't2.pool.ExpertPool.load', set env var HYDRA_FULL_ERROR=1") == (
        "t2.pool.ExpertPool.load"
    )
    assert target_in("Error in call to target 't2.x'") is None
