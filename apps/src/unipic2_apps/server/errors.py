"""Errors in OpenAI's shape: every 4xx says what was wrong and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

__all__ = ["ApiError", "SafeJSON", "add_handlers", "body_of", "explain"]

SHOWN = 3
CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class SafeJSON(Response):
    """JSON in ASCII: what clients send may hold characters that have no encoding."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


class ApiError(HTTPException):
    """A request that is refused.

    Args:
        status: HTTP status.
        code: What went wrong, for programs.
        message: What was given, what was expected and the mend, for people.
        param: The field that is to blame.
        headers: Headers of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code
        self.param = param

    def response(self) -> Response:
        """Return the error as a response."""
        return SafeJSON(body_of(self), self.status_code, dict(self.headers or {}))


def body_of(error: ApiError) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return {"error": {"message": error.detail, "type": kind, "param": error.param, "code": error.code}}


def explain(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return pydantic's list of problems as one error."""
    lines = []
    for problem in problems[:SHOWN]:
        place = [str(part) for part in problem["loc"] if part != "body"]
        message = str(problem["msg"]).removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "this field is unknown"
        lines.append(f"{'.'.join(place)}: {message}" if place else message)
    if len(problems) > SHOWN:
        lines.append(f"and {len(problems) - SHOWN} more")
    first = [part for part in problems[0]["loc"] if part != "body"]
    is_unknown = problems[0]["type"] == "extra_forbidden"
    param = str(first[0]) if first and isinstance(first[0], str) else None
    return ApiError(400, "unknown_field" if is_unknown else "invalid_value", "; ".join(lines) + ".", param=param)


def add_handlers(app: FastAPI) -> None:
    """Make all errors of an app take OpenAI's shape."""

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> Response:
        if not isinstance(error, ApiError):
            code = CODES.get(error.status_code, "invalid_request")
            error = ApiError(error.status_code, code, f"{error.detail}.", headers=error.headers)
        return error.response()

    @app.exception_handler(Exception)
    async def broken(_request: Request, _error: Exception) -> Response:  # it is logged, and nothing of it told
        return ApiError(500, "internal_error", "the server made a mistake; it is in its log.").response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        return explain(error.errors()).response()
