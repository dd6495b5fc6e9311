"""Seconds and bytes of bringing an adapter to a vLLM server: z, composed there, against W', composed here and sent.

    python bench/weight_sync.py [--adapters full,top16] [--rounds 3] [--no-http] [--output FILE.json]  (after make vllm)

One server of SmolLM2 on this machine. `z` is what generation=vllm_server does. `W' by HTTP` composes all W' in the
trainer and posts them as z is posted; `W' by file` writes them to memory that both can read, which servers on other
machines cannot. `W' in process` is what generation=vllm does, without any server. All but z load by vLLM's own reload.
The first of each is not counted. Not measured: generation.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra.utils import instantiate
from measure import ROOT, finish, names_of, parser
from omegaconf import OmegaConf
from safetensors.torch import load, load_file, save, save_file

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy.vllm import VLLMGenerator
from t2.policy.vllm_client import VLLMServer, VLLMServers
from t2.policy.vllm_compose import specification_of
from t2.policy.vllm_engine import EngineSettings
from t2.policy.vllm_weights import complete_weights
from t2.policy.vllm_worker import SVFWorker
from t2.types import Example, Sampling

ADAPTERS: dict[str, dict[str, Any]] = {"full": {}, "top16": {"spectrum": "top", "rank": 16}}
HTTP = "W' by HTTP"
WAYS = ("z", HTTP, "W' by file")
IN_PROCESS = "W' in process"
START_S, TIMEOUT_S = 300.0, 600.0


class WholeWorker(SVFWorker):
    """A worker that also loads whole weights."""

    def t2_whole(self, weights: str) -> dict[str, Any]:
        """Load weights from base64 of safetensors, or from the file that `file:PATH` names."""
        read = load_file(weights[5:]) if weights.startswith("file:") else load(base64.b64decode(weights))
        self.model_runner.reload_weights(weights_iterator=iter(read.items()))  # type: ignore[attr-defined]
        return {}


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Within the block a server of SmolLM2 answers at the yielded address."""
    model: Any = OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "t2.policy.vllm_serve", model.source, "--sha256", model.sha256]
    command += ["--port", str(port), "--max-model-len", "512", "--worker-extension-cls", "weight_sync.WholeWorker"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")])
    with (folder / "server.log").open("w") as log:
        started = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"PYTHONPATH": path}
        )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            try:
                VLLMServer(url, timeout_s=5, start=command).check()
                break
            except (ConnectionError, ValueError) as error:
                if started.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"No server: {(folder / 'server.log').read_text()[-2000:]}") from error
                time.sleep(1)
        yield url
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(60)


def loaded(adapter: str) -> tuple[LanguageModel, SVF, Callable[[], None]]:
    """SmolLM2, the adapter, and a function that gives it another z."""
    lm: LanguageModel = instantiate(OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml"))
    svf = SVF(progress=False, **ADAPTERS[adapter])
    svf.inject(lm.model, lm.source)
    random = torch.Generator().manual_seed(0)

    def move() -> None:
        state = {name: 1 + 0.01 * torch.randn(s.shape, generator=random) for name, s in svf.singular_values.items()}
        svf.load({name: torch.where(svf.learnable()[name], z, 1.0) for name, z in state.items()})

    return lm, svf, move


def measure(url: str, adapter: str, rounds: int, *, http: bool) -> list[dict[str, Any]]:
    """A row for each way, of which W' by HTTP is slow."""
    lm, svf, move = loaded(adapter)
    server = VLLMServer(url, timeout_s=TIMEOUT_S, start=["python"])
    servers = VLLMServers([server], lambda: specification_of(lm, svf))

    def send_z() -> int:
        before = servers.sync_bytes
        servers.follow({name: svf.learned[name].of(z) for name, z in svf.state().items()})
        return servers.sync_bytes - before

    def send_whole() -> int:
        text = base64.b64encode(save(dict(complete_weights(lm, set(svf.layers), svf)))).decode()
        server.rpc("t2_whole", text)
        return len(text)

    def send_file() -> int:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            save_file(dict(complete_weights(lm, set(svf.layers), svf)), file.name)
            server.rpc("t2_whole", f"file:{file.name}")
            return Path(file.name).stat().st_size

    rows = []
    for way, send in zip(WAYS, (send_z, send_whole, send_file), strict=True):
        if way == HTTP and not http:
            continue
        seconds, sent = _timed(send, move, rounds)
        rows.append({"adapter": adapter, "way": way, "seconds": seconds, "bytes": sent})
    return rows


def measure_in_process(adapter: str, rounds: int) -> dict[str, Any]:
    """The row of an engine in this process: a completion of one token with another z, minus one with the same."""
    lm, svf, move = loaded(adapter)
    generator = VLLMGenerator(lm, svf, engine=EngineSettings(max_length=512))
    one = Sampling(max_new_tokens=1)

    def generate() -> int:
        generator.generate([Example(prompt="1 + 1 =")], one)
        return 0

    synced, _ = _timed(generate, move, rounds)
    plain, _ = _timed(generate, lambda: None, rounds)
    size = sum(weight.nbytes for _, weight in complete_weights(lm, set(svf.layers), svf))
    return {"adapter": adapter, "way": IN_PROCESS, "seconds": [one - median(plain) for one in synced], "bytes": size}


def _timed(send: Callable[[], int], move: Callable[[], None], rounds: int) -> tuple[list[float], int]:
    seconds, sent = [], 0
    for _ in range(rounds + 1):
        move()
        start = time.perf_counter()
        sent = send()
        seconds.append(time.perf_counter() - start)
    return seconds[1:], sent


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians, and those of z as a share of each."""
    z = {row["adapter"]: median(row["seconds"]) for row in rows if row["way"] == "z"}
    lines = ["| adapter | sent | seconds | bytes | z's seconds, as a share |", "|---|---|---|---|---|"]
    for row in rows:
        took = median(row["seconds"])
        share = f"{z[row['adapter']] / took:.2f}"
        lines.append(f"| {row['adapter']} | {row['way']} | {took:.2f} | {row['bytes']:,} | {share} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write the JSON where `--output` says."""
    args = _parser().parse_args(argv)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for adapter in args.adapters:
            with serving(Path(folder)) as url:
                rows += measure(url, adapter, args.rounds, http=args.http)
            rows.append(measure_in_process(adapter, args.rounds))
    finish(args, table(rows), {"rows": rows})


def _parser() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--adapters", type=names_of(ADAPTERS), default=list(ADAPTERS), help="comma-separated")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--no-http", dest="http", action="store_false", help="leave out W' by HTTP, a minute each")
    return made


if __name__ == "__main__":
    main(sys.argv[1:])
