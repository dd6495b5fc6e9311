"""The routes of the server (FastAPI): OpenAI's API, what the pool is, metrics, health, and the page.

Not done here: checking a request against the model (`t2.serving.answering`), keys and sizes (`t2.serving.gate`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from openai.types import Model
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest

from t2.serving.answering import unless_hung_up
from t2.serving.catalog import Catalog
from t2.serving.engine import Engine
from t2.serving.errors import APIError, of_validation
from t2.serving.gate import Gate
from t2.serving.metrics import Metrics
from t2.serving.pool_info import describe_pool, heat_map
from t2.serving.prepare import prepare
from t2.serving.requests import ChatRequest, CompletionRequest
from t2.serving.settings import Settings

PAGE = Path(__file__).with_name("page")
# The page loads nothing from elsewhere, and talks to this server alone; it has no inline script or style.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # another version of t2 may answer here tomorrow
}


@dataclass(frozen=True)
class Service:
    """What the routes use; `examples` are prompts of each domain to try."""

    catalog: Catalog
    engine: Engine
    settings: Settings
    metrics: Metrics
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)


def make_app(service: Service, api_key: str | None = None) -> FastAPI:
    """The application, whose engine starts and stops with it."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        await asyncio.to_thread(service.engine.stop, service.settings.stop_timeout_s)

    app = FastAPI(title="t2", docs_url=None, redoc_url=None, lifespan=running)
    app.add_middleware(Gate, api_key=api_key, max_body_bytes=service.settings.max_body_bytes)
    app.add_exception_handler(APIError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    _openai_routes(app, service)
    _own_routes(app, service)
    return app


def _openai_routes(app: FastAPI, service: Service) -> None:
    catalog = service.catalog

    def model(name: str) -> dict[str, Any]:
        return Model(id=name, created=catalog.created, object="model", owned_by="t2").to_dict()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model(name) for name in catalog.names]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        if name not in catalog.names:
            raise APIError(404, f"The model {name!r} is not served.", code="model_not_found", param="model")
        return model(name)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest, http: HTTPRequest) -> Response:
        return await _answer(service, request, http)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: CompletionRequest, http: HTTPRequest) -> Response:
        return await _answer(service, request, http)


def _own_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/t2/pool")
    async def pool() -> dict[str, Any]:
        return describe_pool(service.catalog, service.examples)

    @app.get("/v1/t2/experts/{name}")
    async def expert(name: str) -> dict[str, Any]:
        found = service.catalog.pool
        if found is None or name not in found.domains:
            raise APIError(404, f"There is no expert {name!r}.", code="expert_not_found")
        return heat_map(found, name)

    @app.get("/health")
    async def health() -> JSONResponse:
        fine = service.engine.is_alive and not service.engine.is_stopping
        return JSONResponse({"status": "ok" if fine else "stopping"}, 200 if fine else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    files = {path.name: path for path in PAGE.iterdir()}

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(files["index.html"], headers=PAGE_HEADERS)

    @app.get("/page/{name}")
    async def page_file(name: str) -> FileResponse:
        if name not in files:
            raise APIError(404, f"The page has no file {name!r}.", code="not_found")
        return FileResponse(files[name], headers=PAGE_HEADERS)


async def _answer(service: Service, request: ChatRequest | CompletionRequest, http: HTTPRequest) -> Response:
    """Answer a request, whole or as a stream, and count it."""
    endpoint = "chat" if isinstance(request, ChatRequest) else "completions"
    known = request.model if request.model in service.catalog.names else "unknown"

    def count(status: int) -> None:
        service.metrics.requests.labels(endpoint, known, str(status)).inc()

    try:
        # In a thread: to tokenize a long text takes a while, and the loop serves others meanwhile.
        answering = await asyncio.to_thread(prepare, request, service.catalog, service.engine, service.settings)
        answering.submit()
        service.metrics.prompt_tokens.inc(answering.prompt_tokens)
        if request.stream:
            chunks = answering.chunks()
            first = await unless_hung_up(anext(chunks), _hung_up(http))
            if first is not None:
                return _streamed(first, chunks, service, count)
        text = None if request.stream else await unless_hung_up(answering.whole(), _hung_up(http))
    except APIError as error:
        count(error.status)
        raise
    if text is None:
        service.metrics.hung_up.inc()
        count(499)
        return Response(status_code=499)
    count(200)
    return Response(text, media_type="application/json")


def _streamed(
    first: str, chunks: AsyncGenerator[str, None], service: Service, count: Callable[[int], None]
) -> StreamingResponse:
    """The answer as server-sent events; what goes wrong before the first chunk still has a status of its own."""

    async def events() -> AsyncIterator[str]:
        status = 499
        try:
            yield f"data: {first}\n\n"
            async for chunk in chunks:
                yield f"data: {chunk}\n\n"
            status = 200
        except APIError as error:
            status = error.status
            yield f"data: {json.dumps(error.body)}\n\n"
        finally:
            await chunks.aclose()  # which frees its places
            count(status)
            if status == 499:
                service.metrics.hung_up.inc()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _hung_up(http: HTTPRequest) -> None:
    """Return when the client has left."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _api_error(_: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, APIError), error
    return error.response()


async def _validation_error(_: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), error
    return of_validation(error.errors()).response()


async def _http_error(_: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException), error
    return APIError(error.status_code, str(error.detail), code="http_error").response()
