"""A stand-in for a vLLM server, in this process: it adds LoRAs to the weights of a model and decodes greedily."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from safetensors.torch import load_file
from served import strategies
from torch import Tensor

from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.serving.app import Service
from t2.serving.applied import Unmerged
from t2.serving.catalog import Catalog, by_name
from t2.serving.metrics import Metrics
from t2.serving.settings import Settings
from t2.serving.vllm_api import VLLMAPI
from t2.serving.vllm_engine import VLLMEngine
from t2.serving.vllm_limits import Limits
from t2.serving.vllm_loras import LoRAs


class Upstream:
    """What it has loaded and been asked; `ends` breaks an answer off after a token, `hold` keeps it from going on."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.models = lm, {"theirs": lm.model}
        self.loaded: list[str] = []  # of all times
        self.requests: list[dict[str, Any]] = []
        self.takes_loras, self.ends, self.hold = True, False, asyncio.Event()
        self.hold.set()
        self.says: str | None = None  # in place of the models
        self.left = 0  # requests that were ended by the client
        self.app = FastAPI()
        self.app.get("/v1/models", response_model=None)(self.list_models)
        self.app.post("/v1/completions", response_model=None)(self.complete)
        self.app.post("/v1/{act}_lora_adapter", response_model=None)(self.lora)

    async def list_models(self) -> Any:
        if self.says is not None:
            return PlainTextResponse(self.says, media_type="text/html")
        kinds = [{"parent": None, "max_model_len": 300}, *({"parent": "theirs"} for _ in self.models)]
        return {"data": [{"id": name, **kind} for name, kind in zip(self.models, kinds, strict=False)]}

    async def lora(self, act: str, request: Request) -> Any:
        if not self.takes_loras:
            return JSONResponse({"error": {"message": "Not Found"}}, 404)
        body = await request.json()
        name = body["lora_name"]
        if act == "unload":
            del self.models[name]
        else:
            assert name not in self.models
            self.loaded.append(name)
            self.models[name] = added(self.lm, Path(body["lora_path"]))
        return PlainTextResponse("Success")

    async def complete(self, request: Request) -> Any:
        body = await request.json()
        self.requests.append(body)
        if body["model"] not in self.models:
            return JSONResponse({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
        model = self.models[body["model"]]
        if body.get("echo"):
            ids = torch.tensor([body["prompt"]])
            found = model(ids).logits[0].log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0].tolist()
            log_probs = {"tokens": [], "token_logprobs": [None, *found, -1.0]}
            return {"choices": [{"index": 0, "text": "", "finish_reason": "length", "logprobs": log_probs}]}
        return StreamingResponse(self._stream(model, body), media_type="text/event-stream")

    async def _stream(self, model: Any, body: dict[str, Any]) -> AsyncIterator[str]:
        ids, ended = list(body["prompt"]), False
        try:
            while not ended:
                await self.hold.wait()
                with torch.no_grad():
                    log_probs: Tensor = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                ids.append(int(log_probs.argmax()))
                stops = ids[-1] in body["stop_token_ids"]
                ended = stops or len(ids) - len(body["prompt"]) == body["max_tokens"]
                for n in range(body["n"]):
                    yield chunk(n, ids[-1], float(log_probs.max()), ("stop" if stops else "length") if ended else None)
                if self.ends:
                    return
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left += 1
            raise


def chunk(index: int, token: int, log_prob: float, finish: str | None) -> str:
    choice = {
        "index": index, "text": "?", "token_ids": [token], "finish_reason": finish,
        "logprobs": {"tokens": ["?"], "token_logprobs": [log_prob]},
    }  # fmt: skip
    body = {"id": "x", "object": "text_completion", "created": 0, "model": "x", "choices": [choice]}
    return f"data: {json.dumps(body)}\n\n"


def added(lm: LanguageModel, folder: Path) -> Any:
    """A copy of the model with B A of a PEFT folder added to its matrices."""
    model, tensors = copy.deepcopy(lm.model), load_file(folder / "adapter_model.safetensors")
    for name, factor in tensors.items():
        if ".lora_A." in name:
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            model.get_submodule(path).weight.data += tensors[name.replace("lora_A", "lora_B")] @ factor
    return model


@contextmanager
def upstreamed(
    model: PooledModel, upstream: Upstream, folder: Path, *, rank: int = 512, max_error: float = 0.1, mixtures: int = 2
) -> Iterator[Service]:
    """A service whose pass 2 runs at a stand-in."""
    assert isinstance(model.adapter, SVF)
    served = PooledModel(HFGenerator(model.lm, Unmerged(model.adapter)), model.pool)
    loras = LoRAs(model.lm, model.adapter, model.pool, folder / "loras", Limits(rank, max_error, mixtures))
    api = VLLMAPI(
        "http://upstream", key=None, timeout_s=20, start="vllm serve", transport=httpx2.ASGITransport(upstream.app)
    )
    settings, metrics = Settings(max_concurrent=8), Metrics()
    engine = VLLMEngine(model.lm, served, api, loras, settings, metrics)
    try:
        engine.connect()
        yield Service(Catalog(model.lm, served, by_name(strategies())), engine, settings, metrics)
    finally:
        engine.close()


def base_of(model: PooledModel) -> Upstream:
    """A stand-in that has the base of the tiny model."""
    lm = tiny_model(layers=2)
    lm.end_ids = model.lm.end_ids
    return Upstream(lm)
