"""Errors in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class APIError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        """`code` is a word that programs compare, `param` the key of the request that is to blame."""
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        # A name in the request may hold half a surrogate pair, which is no text and cannot be sent.
        message = self.message.encode("utf-8", "backslashreplace").decode()
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer; a client that came too soon is told when to come again."""
        again = {"Retry-After": "1"} if self.status in (429, 503) else {}
        return JSONResponse(self.body, self.status, headers=again)


def of_validation(errors: Sequence[Any]) -> APIError:
    """The first thing that is wrong with a request, of those that pydantic found."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    where = ".".join(place)
    if first["type"] == "json_invalid":
        return APIError(400, f"The request is no JSON: {first.get('ctx', {}).get('error', '')}.", code="invalid_json")
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "this key is not known; leave it out"
    if first["type"] in ("model_attributes_type", "missing") and not where:
        message = "the body has to be a JSON object, sent with Content-Type: application/json"
    param = where.encode("utf-8", "backslashreplace").decode() or None
    return APIError(400, f"{where}: {message}." if where else message, code="invalid_value", param=param)
