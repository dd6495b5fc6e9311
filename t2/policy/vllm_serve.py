"""Starts a vLLM server that `generation=vllm_server` can use: vLLM's own, with t2's worker extension.

    python -m t2.policy.vllm_serve SOURCE [--sha256 HEX] [--dtype DTYPE] [--port N] [options of `vllm serve`]

SOURCE is a base model's, in every form of `t2.models.sources`. Options that are not t2's are passed on, such as
`--tensor-parallel-size 2`, `--gpu-memory-utilization 0.8` or `--host 0.0.0.0`. The server listens on this machine alone
unless `--host` says otherwise, and whoever reaches it can change its weights: open it to nobody but the trainer.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from t2.models.gguf import dequantized
from t2.models.sources import resolve
from t2.policy.vllm_engine import CPU_BLOCK_TOKENS, check_installed

EXTENSION = "t2.policy.vllm_worker.SVFWorker"


def command(argv: Sequence[str]) -> list[str]:
    """The arguments of vLLM's server for those of this program.

    Raises:
        ImportError: vLLM is not installed.
        ValueError, OSError: a bad source, or a port that is taken.
    """
    parser = argparse.ArgumentParser(prog="python -m t2.policy.vllm_serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("source", help="base_model.source")
    parser.add_argument("--sha256", help="base_model.sha256")
    parser.add_argument("--dtype", default="float32", help="as base_model.dtype")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args, others = parser.parse_known_args(argv)
    check_installed()
    check_free(args.host, args.port)
    words = [*model_words(args.source, args.sha256), "--dtype", args.dtype, "--host", args.host]
    words += ["--port", str(args.port)]
    words += ["--worker-extension-cls", EXTENSION, "--enable-scale-out", "--logprobs-mode", "processed_logprobs"]
    if not torch.cuda.is_available():
        words += ["--enforce-eager", *cpu_words(others)]  # a compiled model keeps the products of its first weights
    return [*words, *others]


def cpu_words(others: Sequence[str] = ()) -> list[str]:
    """The arguments that a server on a CPU needs: small blocks, which samples share, and prompts that are read whole.

    Those that are among `others` already are left out.
    """
    whole = ["--no-enable-chunked-prefill"]  # see `t2.policy.vllm_engine.CPU_WHOLE_PROMPTS`
    return whole if "--block-size" in others else ["--block-size", str(CPU_BLOCK_TOKENS), *whole]


def model_words(source: str, sha256: str | None = None) -> list[str]:
    """The arguments that name a base model to vLLM's server, which calls it by its source.

    Raises:
        ValueError, OSError: a bad source.
    """
    found = resolve(source, sha256)
    location, _, revision = found.location.partition("@") if found.kind == "hub" else (found.location, "", "")
    if found.kind == "gguf":
        location = str(dequantized(Path(location), sha256))
    return ["--model", location, "--served-model-name", source, *(["--revision", revision] if revision else [])]


def check_free(host: str, port: int) -> None:
    """Raise OSError unless a server can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"Port {port} of {host} cannot be listened on ({error.strerror}): another server has it, or the "
                "address is not this machine's. Give another --port, or end that server."
            ) from None


def main(argv: Sequence[str]) -> None:
    """Become the server, or end with a message that says why not."""
    try:
        words = command(argv)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    # The endpoints that load weights and put the engine to sleep are there in vLLM's development mode alone.
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"} | os.environ | {"VLLM_SERVER_DEV_MODE": "1"}
    # Not the program `vllm`: that of the CPU build ends when it looks for its own version under another name.
    os.execve(sys.executable, [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words], environment)


if __name__ == "__main__":
    main(sys.argv[1:])
