"""export.py as a user runs it: both formats of an expert and of a mixture, where they come from, and bad input."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from safetensors.torch import load_file
from script_errors import error_of
from tiny_models import IDS, adapt, logits, tiny
from transformers import AutoModelForCausalLM

from t2.experts.mixture import Mixture
from t2.experts.mixture_file import save_mixture
from t2.experts.pool import ExpertPool

pytestmark = pytest.mark.commands
Run = Callable[..., Path]


def merged_logits(pool_folder: Path, *weights: float) -> torch.Tensor:
    """What the tiny model computes with a mixture of the pool."""
    lm = tiny()
    with adapt(lm).merged(ExpertPool.load(pool_folder).state(Mixture.of(*weights))):
        return logits(lm)


def model_logits(out: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(out)(IDS).logits


def test_an_expert_as_a_model(export: Run, pool_folder: Path) -> None:
    out = export("expert=EXPERT")
    assert torch.allclose(model_logits(out), merged_logits(pool_folder, 0.0, 1.0), atol=1e-5)  # of letters, math
    told = json.loads((out / "export.json").read_text())
    assert told["expert"]["sha256"] == hashlib.sha256((pool_folder / "math.safetensors").read_bytes()).hexdigest()
    assert (told["to"], told["base_model"], told["dtype"]) == ("hf", "tiny:llama", "float32")
    assert (told["expert"]["task"], told["expert"]["domain"]) == ("math", "math")
    assert "prompts" not in told["expert"]


def test_an_expert_as_a_lora(export: Run, pool_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export("expert=EXPERT", "to=lora", "rank=3")
    shown = capsys.readouterr().out
    lines = shown[shown.index("Relative error of the changes") :].splitlines()
    total = json.loads((out / "export.json").read_text())["lora"]["relative_error"]
    assert lines[8].split() == ["all", "matrices", "3", f"{total:.3f}"]  # after the five worst
    worst = [float(line.split()[-1]) for line in lines[3:8]]
    assert worst == sorted(worst, reverse=True)
    assert {
        tensor.shape[0] for name, tensor in load_file(out / "adapter_model.safetensors").items() if "lora_A" in name
    } == {3}
    peft.PeftModel.from_pretrained(tiny().model, out)


def test_a_mixture_by_its_weights_and_out_of_a_file(export: Run, pool_folder: Path, tmp_path: Path) -> None:
    expected = merged_logits(pool_folder, 0.5, 1.0)
    (tmp_path / "out").mkdir()  # an empty folder is as good as none
    out = export("POOL", "weights={math: 1.0, letters: 0.5}")
    assert torch.allclose(model_logits(out), expected, atol=1e-5)
    told = json.loads((out / "export.json").read_text())["mixture"]
    assert told["weights"] == {"letters": 0.5, "math": 1.0}
    assert told["experts"]["math"]["task"] == "math"
    pool = ExpertPool.load(pool_folder)
    assert told["pool"] == pool.identity
    save_mixture(tmp_path / "mixture.json", Mixture.of(0.5, 1.0), pool, strategy="few_shot", task="gcd", seed=0)
    out.rename(tmp_path / "first")
    assert torch.allclose(model_logits(export("POOL", f"mixture={tmp_path}")), expected, atol=1e-5)


BAD_INPUT = {
    "unknown format": (("expert=EXPERT", "to=onnx"), ["to is 'onnx'; allowed: gguf, hf, hub, lora"]),
    "gguf": (
        ("expert=EXPERT", "to=gguf"),
        ["to=gguf changes the GGUF file", "tiny_model is none", "to=hf", "convert_hf_to_gguf.py"],
    ),
    "no expert": ((), ["neither is given", "expert=RUN", "experts=POOL"]),
    "expert and pool": (("expert=EXPERT", "POOL", "weights={math: 1}"), ["both are given"]),
    "pool alone": (("POOL",), ["mixture=RUN or 'weights={DOMAIN: 1.0}', and neither is given"]),
    "two mixtures": (("POOL", "weights={math: 1}", "mixture=x"), ["and both are given"]),
    "mixture without pool": (("mixture=x", "expert=EXPERT"), ["mixture is given, and mixes the experts of a pool"]),
    "unknown domain": (("POOL", "weights={maths: 1}"), ["A domain of weights is 'maths'", "Did you mean 'math'?"]),
    "no such mixture": (("POOL", "mixture=no/such"), ["No mixture file at no/such"]),
    "no such expert": (("expert=no/such",), ["No expert file at no/such"]),
    "rank 0": (
        ("expert=EXPERT", "to=lora", "rank=0"),
        ["rank (null for all", "is 0; allowed: at least 1 and at most 32"],
    ),
    "rank above R": (("expert=EXPERT", "to=lora", "rank=33"), ["is 33; allowed: at least 1 and at most 32"]),
    "rank of a model": (("expert=EXPERT", "rank=4"), ["rank is 4, and to=hf has no rank"]),
    "shard size": (
        ("expert=EXPERT", "max_shard_size=big"),
        ["max_shard_size is 'big'; allowed: a number and its unit"],
    ),
    "no place": (("expert=EXPERT", "out=null"), ["give out=FOLDER"]),
    "place in use": (("expert=EXPERT", "out=USED"), ["is not empty, and nothing is written over"]),
    "place is a file": (("expert=EXPERT", "out=USED/file"), ["is a file, and nothing is written over"]),
    "hub without a name": (("expert=EXPERT", "to=hub"), ["repo is None; give repo=USER/NAME"]),
    "hub with a bad name": (("expert=EXPERT", "to=hub", "repo=me/a--b"), ["repo is 'me/a--b', which the hub does not"]),
    "hub without a licence": (("expert=EXPERT", "to=hub", "repo=me/it"), ["give license=ID"]),
    "hub of a mixture": (("POOL", "weights={math: 1}", "to=hub", "repo=me/it"), ["to=hub publishes one expert"]),
    "hub without a token": (
        ("expert=EXPERT", "to=hub", "repo=me/it", "license=mit", "dry_run=false"),
        ["There is no token for the hub", "HF_TOKEN", "dry_run=true"],
    ),
    "hub without scores": (
        ("expert=EXPERT", "to=hub", "repo=me/it", "license=mit", "results=no/such"),
        ["No results.json at no/such"],
    ),
    "other model": (("expert=EXPERT", "base_model.seed=1"), ["Their weights differ", "transfer=true"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_has_its_own_message(
    case: str, export: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, expected = BAD_INPUT[case]
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    given = [one.replace("USED", str(tmp_path / "used")) for one in overrides]
    shown = error_of(lambda: export(*given), caplog, capsys)
    for part in expected:
        assert part in shown, shown
    assert "Traceback" not in shown
    assert sorted(path.name for path in tmp_path.iterdir()) in (["run", "used"], ["used"])
    assert (tmp_path / "used" / "file").read_text() == "mine"


def test_what_peft_has_trained_is_said_to_be_there_already(run_script, tmp_path: Path, caplog, capsys) -> None:
    def run(*words: str) -> str:
        where = (f"out={tmp_path / 'out'}", f"hydra.run.dir={tmp_path / 'run'}")
        return error_of(lambda: run_script("export", "base_model=tiny", *where, *words), caplog, capsys)

    shown = run("adapter=lora", "expert=RUN", "to=lora")
    assert "adapter is lora, and export.py writes experts of SVF" in shown
    assert "peft.PeftModel.from_pretrained(model, 'RUN/peft')" in shown
    assert "leave adapter out" in run("adapter=steering", "expert=RUN")


@pytest.mark.parametrize("words", [("base_model=any",), ()])
def test_what_is_exported_is_loaded_by_its_folder_alone(words, export: Run, run_script, tmp_path: Path, capsys) -> None:
    out = export("expert=EXPERT", "to=hf", f"out='{tmp_path / 'my out'}'").with_name("my out")
    (source,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Next:"))
    words_shown = shlex.split(source.partition(", or ")[2])
    assert words_shown[0] == "base_model=any"
    where = (words_shown[1], f"hydra.run.dir={tmp_path / 'scored'}", "logger=none")
    run_script("evaluate", *words, *where, "limit=1", "controls=null", "sampling.max_new_tokens=2", "task=products")
    assert json.loads((tmp_path / "scored" / "results.json").read_text())["base_model"] == str(out)


@pytest.mark.parametrize("to", ["hf", "lora"])
def test_a_full_disk_leaves_nothing(
    to: str, export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, capsys
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    shown = error_of(lambda: export("expert=EXPERT", f"to={to}"), caplog, capsys)
    assert "The disk is full" in shown
    assert "GB are free" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_expert_of_another_model_is_transferred_on_request(export: Run) -> None:
    assert (export("expert=EXPERT", "base_model.seed=1", "transfer=true") / "model.safetensors").is_file()
