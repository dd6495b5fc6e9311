"""What every request passes before it is looked at: the name it was sent to, the key, and its size.

A web page of somebody else's that is open in a browser on the same machine can send requests to a loopback address. A
server without a key therefore answers only where the Host header is a loopback name (a page may have made its own name
point here), and no server sends CORS headers, so that no other page reads what it answers.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2.serving.errors import APIError
from t2.serving.settings import is_loopback

# What needs no key: the page, which asks for it, and what it is made of; a supervisor has none.
OPEN = re.compile(r"/|/page/[^/]+|/health")


class TooLarge(Exception):
    """A body of more bytes than are read."""


class Gate:
    """An ASGI application around another one, which it shows only what may pass."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, max_body_bytes: int) -> None:
        """Without `api_key` only requests to loopback names pass."""
        self._app, self._key, self._max_body_bytes = app, api_key, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, seen = False, 0

        async def sending(message: Message) -> None:
            nonlocal started
            if started or seen <= self._max_body_bytes:  # else it says that it could not read the body
                started = True
                await send(message)

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                raise TooLarge
            return message

        error = self._refusal(scope)
        if error is None:
            with suppress(TooLarge):
                await self._app(scope, counted, sending)
            if started or seen <= self._max_body_bytes:
                return
            error = self._too_large()
        await error.response()(scope, receive, send)

    def _refusal(self, scope: Scope) -> APIError | None:
        headers = Headers(scope=scope)
        if self._key is None:
            try:
                host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
            except ValueError:  # brackets without an address
                host = ""
            if not is_loopback(host):
                return APIError(
                    400,
                    f"The Host header is {headers.get('host')!r}; a server without an API key answers to localhost and "
                    "127.0.0.1 alone.",
                    code="invalid_host",
                )
        elif not OPEN.fullmatch(scope["path"]) and not self._knows(headers.get("authorization", "")):
            return APIError(
                401, "The API key is missing or wrong. Send Authorization: Bearer KEY.", code="invalid_api_key"
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            return self._too_large()
        return None

    def _knows(self, authorization: str) -> bool:
        kind, _, key = authorization.partition(" ")
        assert self._key is not None, "checked before"
        return kind.lower() == "bearer" and secrets.compare_digest(key.strip().encode(), self._key.encode())

    def _too_large(self) -> APIError:
        return APIError(413, f"The request has more than {self._max_body_bytes} bytes.", code="request_too_large")
