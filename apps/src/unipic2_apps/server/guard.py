"""Who may come in, how often, and with how much: checked before anything is read."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unipic2_apps.server.errors import ApiError

__all__ = ["Guard", "RateLimit"]

OPEN = {"/health", "/docs", "/openapi.json"}
"""What needs no key: nothing behind it works, and nothing there is secret."""
MOST_CLIENTS = 10_000
MEGABYTE = 2**20


class RateLimit:
    """Lets each client make so many requests a minute, and as many at once (a token bucket).

    Args:
        per_minute: The most requests.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float | None = None) -> float:
        """Count a request; return the seconds after which it may come instead, or 0.

        Args:
            client: Who makes it.
            now: Seconds of any clock.
        """
        now = time.monotonic() if now is None else now
        tokens, last = self._clients.pop(client, (float(self.per_minute), now))
        tokens = min(self.per_minute, tokens + (now - last) * self.per_minute / 60)
        allowed = tokens >= 1
        self._clients[client] = (tokens - allowed, now)
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) * 60 / self.per_minute


class Guard:
    """Middleware that refuses before anything is read.

    Args:
        app: What it stands in front of.
        keys: Keys that let in; without any everybody may.
        per_minute: The most requests a minute of a key or address; 0 is no limit.
        max_body: Megabytes of a body.
    """

    def __init__(self, app: ASGIApp, *, keys: Collection[str] = (), per_minute: int = 0, max_body: int = 32) -> None:
        self.app = app
        self.keys = [_digest(key.encode()) for key in keys]
        self.limit = RateLimit(per_minute) if per_minute else None
        self.max_bytes = max_body * MEGABYTE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if scope["path"] not in OPEN:
                self._let_in(scope)
            self._check_length(Headers(scope=scope).get("content-length", ""))
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _let_in(self, scope: Scope) -> None:
        client = scope["client"][0] if scope.get("client") else ""
        if self.keys:
            client = self._check_key(Headers(scope=scope).get("authorization", ""))
        seconds = self.limit.wait(client) if self.limit else 0
        if seconds:
            retry = math.ceil(seconds)
            msg = f"more requests than this server allows in a minute; try again in {retry} s."
            raise ApiError(429, "rate_limit_exceeded", msg, headers={"Retry-After": str(retry)})

    def _check_key(self, authorization: str) -> str:
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip().encode("latin-1"))  # the bytes that came: headers are read as Latin-1
        # All keys are compared, and digests: neither length, content nor order shows in the time it takes.
        found = [hmac.compare_digest(given, known) for known in self.keys]
        if scheme.lower() != "bearer" or not any(found):
            msg = "the API key is missing or wrong: send it as Authorization: Bearer KEY."
            raise ApiError(401, "invalid_api_key", msg, headers={"WWW-Authenticate": "Bearer"})
        return given.hex()

    def _check_length(self, length: str) -> None:
        if length.isdecimal() and int(length[:20]) > self.max_bytes:
            raise self._too_large()

    def _counted(self, receive: Receive) -> Receive:
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.max_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> ApiError:
        msg = f"the body is larger than {self.max_bytes // MEGABYTE} MB: send fewer or smaller pictures."
        return ApiError(413, "body_too_large", msg)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
