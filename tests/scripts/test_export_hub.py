"""An expert as a repository of the hub: its card, whose scores are on it, and what a push needs; nothing is pushed."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from script_errors import error_of

pytestmark = pytest.mark.commands
Run = Callable[..., Path]


def test_an_expert_as_a_repository_of_the_hub(export: Run, pool_folder: Path, tmp_path: Path) -> None:
    score = {"mean": 0.5, "stderr": 0.05, "n": 100, "majority": 0.1}
    sha256 = hashlib.sha256((pool_folder / "math.safetensors").read_bytes()).hexdigest()
    results = {"base_model": "tiny:llama", "split": "test", "scores": {"gcd": {"base": score, "expert": score}}}
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated" / "results.json").write_text(json.dumps({**results, "expert_sha256": sha256}))
    out = export("expert=EXPERT", "to=hub", "repo=me/gcd", "license=apache-2.0", f"results={tmp_path / 'evaluated'}")
    assert (out / "expert.safetensors").read_bytes() == (pool_folder / "math.safetensors").read_bytes()
    card = ModelCard.load(out / "README.md")
    facts = card.data.to_dict()
    assert (facts["license"], facts["library_name"], facts.get("base_model")) == ("apache-2.0", "transformer2", None)
    assert [(one.dataset_name, one.metric_value) for one in card.data.eval_results] == [("gcd", 0.5)]
    assert "| gcd | test | 100 | expert | 0.500 ± 0.098 |" in card.text
    assert "`tiny:llama`" in card.text
    assert sha256 in card.text
    commands = [shlex.split(line) for line in card.text.splitlines() if line.startswith("    t2 ")]
    assert [words[1:4] for words in commands] == [
        [name, "base_model=tiny", "expert=expert.safetensors"] for name in ("adapt", "export")
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
    for key, value in (("license", "apache-2.0"), ("repo", "me/other")):  # which the card says otherwise
        words = [f"{key}={value}" if one.startswith(f"{key}=") else one for one in given]
        shown = error_of(lambda words=words: export(*words), caplog, capsys)
        assert f"was written with {{'{key}': " in shown
        assert "Remove it and export again" in shown
    assert len(pushed) == 1
    (out / "expert.safetensors").write_bytes(b"another")
    shown = error_of(lambda: export(*given), caplog, capsys)
    assert "is not empty" in shown
    assert len(pushed) == 1


def test_scores_of_another_base_model_are_refused(export: Run, tmp_path: Path, caplog, capsys) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"base_model": "other", "scores": {"gcd": {}}}))
    given = ("expert=EXPERT", "to=hub", "repo=me/gcd", "license=mit", f"results={tmp_path}")
    assert "scores other, and the expert is of tiny:llama" in error_of(lambda: export(*given), caplog, capsys)
