"""What serve.py refuses before it loads a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from script_errors import error_of
from tiny_pool import save_pool

pytestmark = pytest.mark.commands
FIXED = "_target_: t2.adaptation.fixed.Fixed\n_convert_: all\nweights: {maht: 1.0}\nname: fixed\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("api_key_file=no/such",),
            "api_key_file=no/such: there is no such file. Give one whose first line is the key",
        ),
        (("strategy=prompt",), "serve.py takes strategies=[prompt]"),
        (("+task=gcd",), "task is no key of serve.py"),
        (("strategies=[mine]",), "names 'maht'; the pool's domains are letters, math. Did you mean 'math'?"),
    ],
)
def test_it_is_refused_before_a_model_is_loaded(
    words: tuple[str, ...], said: str, run_script: Callable[..., Any], tmp_path: Path, monkeypatch, caplog, capsys
) -> None:
    monkeypatch.setattr("t2.models.tiny.tiny_model", lambda **_: pytest.fail("a model was loaded"))
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "mine.yaml").write_text(FIXED)
    pool = ("+experts._target_=t2.experts.pool.ExpertPool.load", f"+experts.experts={save_pool(tmp_path / 'pool')}")
    given = ("--config-dir", str(tmp_path / "conf"), "base_model=tiny", "port=0", f"hydra.run.dir={tmp_path / 'run'}")
    shown = error_of(lambda: run_script("serve", *given, *pool, *words), caplog, capsys)
    assert said in shown, shown
    assert "Traceback" not in shown
