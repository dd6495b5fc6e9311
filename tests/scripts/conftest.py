"""What several tests of scripts share: export.py on the tiny model, and the pool that it exports from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_pool import save_pool


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pool(tmp_path_factory.mktemp("export") / "pool")


@pytest.fixture
def export(
    run_script: Callable[..., Any], pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Run export.py on the tiny model; `POOL` and `EXPERT` are filled in. Returns the exported folder."""
    pool = ("+experts._target_=t2.experts.pool.ExpertPool.load", f"+experts.experts={pool_folder}")
    monkeypatch.setattr("t2.experts.export_hub.get_token", lambda: None)  # whoever runs the tests may be logged in

    def run(*arguments: str) -> Path:
        given = [part for one in arguments for part in (pool if one == "POOL" else (one,))]
        given = [one.replace("EXPERT", str(pool_folder / "math.safetensors")) for one in given]
        out = [] if any(one.startswith("out=") for one in given) else [f"out={tmp_path / 'out'}"]
        run_script(
            "export", "base_model=tiny", "adapter.cache=false", f"hydra.run.dir={tmp_path / 'run'}", *out, *given
        )
        return tmp_path / "out"

    return run
