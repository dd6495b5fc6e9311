"""The LoRAs of an upstream server: experts that are the base, and folders that servers share."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from served import tiny_pooled

from t2.experts.pool import ExpertPool
from t2.serving.vllm_api import VLLMAPI
from t2.serving.vllm_limits import Limits
from t2.serving.vllm_loras import LoRAs


class Upstream:
    async def load(self, name: str, path: str) -> None:
        assert Path(path).is_dir()

    async def unload(self, name: str) -> None: ...


def test_an_expert_that_learned_nothing_is_the_base_and_another_servers_files_stay(tmp_path: Path) -> None:
    model = tiny_pooled()
    known = model.pool.experts["math"]
    nothing = replace(known, scales={name: torch.ones_like(z) for name, z in known.scales.items()})
    pool = ExpertPool({**model.pool.experts, "nothing": nothing})
    first, second = (
        LoRAs(model.lm, model.adapter, pool, tmp_path / "loras", Limits(rank=512, max_error=0.1, mixtures=2))
        for _ in range(2)
    )
    first.check()

    async def both_start_and_one_ends() -> None:
        upstream = cast(VLLMAPI, Upstream())
        await first.load_experts(upstream)
        await second.load_experts(upstream)
        await first.close(upstream)
        assert len(list((tmp_path / "loras").iterdir())) == 2
        await second.close(upstream)

    asyncio.run(both_start_and_one_ends())
    assert not (tmp_path / "loras").exists()
