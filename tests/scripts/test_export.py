"""export.py as a user runs it: both formats of an expert and of a mixture, where they come from, and bad input."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from script_errors import error_of
from tiny_models import IDS, adapt, logits, tiny
from tiny_pool import save_pool
from transformers import AutoModelForCausalLM

from t2.experts.mixture import Mixture
from t2.experts.mixture_file import save_mixture
from t2.experts.pool import ExpertPool

pytestmark = pytest.mark.commands
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("export") / "pool")


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be logged in."""
    monkeypatch.setattr("t2.experts.export_hub.get_token", lambda: None)


@pytest.fixture
def export(run_script: Callable[..., Any], folder: Path, tmp_path: Path) -> Run:
    """Run export.py on the tiny model; `POOL` and `EXPERT` are filled in. Returns the exported folder."""
    pool = ("+experts._target_=t2.experts.pool.ExpertPool.load", f"+experts.experts={folder}")

    def run(*arguments: str) -> Path:
        given = [part for one in arguments for part in (pool if one == "POOL" else (one,))]
        given = [one.replace("EXPERT", str(folder / "math.safetensors")) for one in given]
        out = [] if any(one.startswith("out=") for one in given) else [f"out={tmp_path / 'out'}"]
        run_script(
            "export", "base_model=tiny", "adapter.cache=false", f"hydra.run.dir={tmp_path / 'run'}", *out, *given
        )
        return tmp_path / "out"

    return run


def merged_logits(folder: Path, *weights: float) -> torch.Tensor:
    """What the tiny model computes with a mixture of the pool."""
    lm = tiny()
    with adapt(lm).merged(ExpertPool.load(folder).state(Mixture.of(*weights))):
        return logits(lm)


def model_logits(out: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(out)(IDS).logits


def test_an_expert_as_a_model(export: Run, folder: Path) -> None:
    out = export("expert=EXPERT")
    assert torch.allclose(model_logits(out), merged_logits(folder, 0.0, 1.0), atol=1e-5)  # of letters, math
    told = json.loads((out / "export.json").read_text())
    assert told["expert"]["sha256"] == hashlib.sha256((folder / "math.safetensors").read_bytes()).hexdigest()
    assert (told["to"], told["base_model"], told["dtype"]) == ("hf", "tiny:llama", "float32")
    assert (told["expert"]["task"], told["expert"]["domain"]) == ("math", "math")
    assert "prompts" not in told["expert"]


def test_an_expert_as_a_lora(export: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_mixture_by_its_weights_and_out_of_a_file(export: Run, folder: Path, tmp_path: Path) -> None:
    expected = merged_logits(folder, 0.5, 1.0)
    (tmp_path / "out").mkdir()  # an empty folder is as good as none
    out = export("POOL", "weights={math: 1.0, letters: 0.5}")
    assert torch.allclose(model_logits(out), expected, atol=1e-5)
    told = json.loads((out / "export.json").read_text())["mixture"]
    assert told["weights"] == {"letters": 0.5, "math": 1.0}
    assert told["experts"]["math"]["task"] == "math"
    pool = ExpertPool.load(folder)
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


def test_an_expert_as_a_repository_of_the_hub(export: Run, folder: Path, tmp_path: Path) -> None:
    score = {"mean": 0.5, "stderr": 0.05, "n": 100, "majority": 0.1}
    sha256 = hashlib.sha256((folder / "math.safetensors").read_bytes()).hexdigest()
    results = {"base_model": "tiny:llama", "split": "test", "scores": {"gcd": {"base": score, "expert": score}}}
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated" / "results.json").write_text(json.dumps({**results, "expert_sha256": sha256}))
    out = export("expert=EXPERT", "to=hub", "repo=me/gcd", "license=apache-2.0", f"results={tmp_path / 'evaluated'}")
    assert (out / "expert.safetensors").read_bytes() == (folder / "math.safetensors").read_bytes()
    card = ModelCard.load(out / "README.md")
    facts = card.data.to_dict()
    assert (facts["license"], facts["library_name"], facts.get("base_model")) == ("apache-2.0", "transformer2", None)
    assert [(one.dataset_name, one.metric_value) for one in card.data.eval_results] == [("gcd", 0.5)]
    assert "| gcd | test | 100 | expert | 0.500 ± 0.098 |" in card.text
    assert "`tiny:llama`" in card.text
    assert sha256 in card.text
    commands = [shlex.split(line) for line in card.text.splitlines() if line.startswith("    t2 ")]
    assert [words[1:4] for words in commands] == [
        [name, "base_model=any", "base_model.source=tiny:llama"] for name in ("adapt", "export")
    ]


def test_scores_of_another_expert_are_not_published(export: Run, tmp_path: Path, caplog, capsys) -> None:
    words = ("expert=EXPERT", "to=hub", "repo=me/gcd", "license=apache-2.0", f"results={tmp_path}")
    score = {"mean": 0.5, "stderr": 0.05, "n": 100, "majority": 0.1}
    results: dict[str, Any] = {"base_model": "tiny:llama", "scores": {"gcd": {"expert": score}}}
    for told in ({"expert_sha256": "0" * 64}, {}):  # an evaluation, and a training run beside whose expert it stands
        (tmp_path / "results.json").write_text(json.dumps(results | told))
        if not told:
            (tmp_path / "expert.safetensors").write_bytes(b"another")
        assert "scores another expert (SHA-256" in error_of(lambda: export(*words), caplog, capsys)
    (tmp_path / "expert.safetensors").unlink()
    export(*words)
    assert "of an older t2 and does not say which file it scored" in capsys.readouterr().out


def test_a_dry_run_that_was_read_is_pushed_as_it_is(
    export: Run, monkeypatch: pytest.MonkeyPatch, caplog, capsys
) -> None:
    pushed: list[str] = []
    monkeypatch.setattr("t2.cli.export.push", lambda out, *_: pushed.append((out / "README.md").read_text()))
    monkeypatch.setattr("t2.experts.export_hub.get_token", lambda: "x")
    out = export("expert=EXPERT", "to=hub", "repo=me/gcd", "license=mit")
    (out / "README.md").write_text("edited")
    given = ("expert=EXPERT", "to=hub", "repo=me/gcd", "license=mit", "dry_run=false", f"out={out}")
    export(*given)
    assert pushed == ["edited"]
    (out / "expert.safetensors").write_bytes(b"another")
    shown = error_of(lambda: export(*given), caplog, capsys)
    assert "is not empty" in shown
    assert len(pushed) == 1


def test_scores_of_another_base_model_are_refused(export: Run, tmp_path: Path, caplog, capsys) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"base_model": "other", "scores": {"gcd": {}}}))
    given = ("expert=EXPERT", "to=hub", "repo=me/gcd", "license=mit", f"results={tmp_path}")
    assert "scores other, and the expert is of tiny:llama" in error_of(lambda: export(*given), caplog, capsys)


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
