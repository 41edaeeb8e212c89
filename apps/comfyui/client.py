"""Requests to a UniPic2 server, with the standard library alone.

Not by urllib, which follows redirects with the API key in hand, and sends what is meant for this machine to the
environment's proxy.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

__all__ = ["UniPic2Error", "call", "check_server", "default_server", "model_of"]

LOCAL = "http://127.0.0.1:8000"
CONNECT_SECONDS = 5
PAUSE = 0.1
"""Seconds between two looks at whether the person has cancelled."""


class UniPic2Error(RuntimeError):
    """What ComfyUI shows to the person."""


def default_server() -> str:
    """Return the server of this ComfyUI: ``$UNIPIC2_SERVER``, or this machine's."""
    return os.environ.get("UNIPIC2_SERVER", "").strip() or LOCAL


def check_server(server: str) -> str:
    """Return an address without what may stand at its end.

    Raises:
        UniPic2Error: If it is no address of a server.
    """
    address = server.strip().rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "").encode("idna")
        is_usable = parts.scheme in {"http", "https"} and host and parts.port != 0 and address.isascii()
    except ValueError:  # a port that is no number, half an IPv6 address, a name that is too long
        is_usable = False
    if not is_usable or "@" in address or parts.query or parts.fragment:
        msg = f"server is {server!r}; write an address such as {LOCAL}, as `unipic2 serve` prints it."
        raise UniPic2Error(msg)
    return address


def model_of(server: str, *, patience: float | None = None) -> dict[str, Any]:
    """Return what the server says of its model.

    Raises:
        UniPic2Error: If it doesn't answer within ``patience`` seconds, or not as a UniPic2 server.
    """
    answer = call(server, "/v1/models", patience=patience)
    try:
        return {"id": answer["data"][0]["id"], "created": answer["data"][0]["created"]}
    except (LookupError, TypeError) as error:
        raise _stranger(server) from error


def call(
    server: str, path: str, body: dict[str, Any] | None = None, *, patience: float | None = None
) -> dict[str, Any]:
    """Send a request, wait for its answer and return it.

    Whoever cancels in ComfyUI leaves the server at once, unless ``patience`` bounds the wait anyway.

    Args:
        server: Address of the server.
        path: Path of the endpoint, with ``/v1``.
        body: What is sent as JSON; without it the request is a GET.
        patience: Seconds to wait; by default as long as it takes.

    Raises:
        UniPic2Error: If there is no answer, or the server refuses; the message says why.
    """
    address = check_server(server)
    headers = {"Accept": "application/json", **_authorization(address)}
    left = threading.Event()
    connection = _connection(address)
    with ThreadPoolExecutor(1) as pool:
        exchange = pool.submit(_exchange, connection, left, urlsplit(address).path + path, body, headers)
        try:
            _wait(address, exchange, patience)
        finally:
            _leave(connection, left)
        try:
            status, data = exchange.result()
        except (OSError, HTTPException) as error:
            msg = (
                f"no UniPic2 server answers at {address} ({error or type(error).__name__}): start one with "
                f"`unipic2 serve`, or correct the address in `server`."
            )
            raise UniPic2Error(msg) from error
    return _answer(address, status, data, was_keyed="Authorization" in headers)


def _connection(address: str) -> HTTPConnection:
    parts = urlsplit(address)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS)


def _exchange(
    connection: HTTPConnection, left: threading.Event, path: str, body: dict[str, Any] | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    with closing(connection):
        connection.connect()
        if left.is_set():
            raise ConnectionAbortedError
        connection.sock.settimeout(None)  # pictures take as long as they take
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            sent = json.dumps(body).encode("ascii")
            # A server may refuse what is too large before it has read it all, and its answer says why.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", path, sent, {**headers, "Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()


def _wait(address: str, exchange: Future[tuple[int, bytes]], patience: float | None) -> None:
    end = None if patience is None else time.monotonic() + patience
    while not wait([exchange], timeout=PAUSE).done:
        if end is not None:
            # A short wait, and outside a node's run, where ComfyUI would forget that the person has cancelled.
            if time.monotonic() > end:
                msg = f"the UniPic2 server at {address} did not answer within {patience:g} s."
                raise UniPic2Error(msg)
            continue
        # Not imported: there is no such module outside ComfyUI, and inside it is there before any node.
        comfy = sys.modules.get("comfy.model_management")
        if comfy is not None:
            comfy.throw_exception_if_processing_interrupted()


def _leave(connection: HTTPConnection, left: threading.Event) -> None:
    """End an exchange that may still wait, in its thread, for the answer; the server sees that the client is gone."""
    left.set()  # before the look at the socket: an exchange that has none yet looks at this once it has
    waiting = connection.sock
    if waiting is not None:
        with suppress(OSError):  # it has ended
            waiting.shutdown(socket.SHUT_RDWR)


def _authorization(address: str) -> dict[str, str]:
    """Return the header with the key of this ComfyUI's own server; a workflow that names another server gets none."""
    key = os.environ.get("UNIPIC2_API_KEY", "").strip()
    if not key or address != check_server(default_server()):
        return {}
    if not (key.isascii() and key.isprintable()):
        msg = "UNIPIC2_API_KEY holds characters that no key has; write one line of ASCII."
        raise UniPic2Error(msg)
    return {"Authorization": f"Bearer {key}"}


def _answer(address: str, status: int, data: bytes, *, was_keyed: bool) -> dict[str, Any]:
    try:
        answer = json.loads(data)
        message = None if status == 200 else str(answer["error"]["message"])
    except (ValueError, LookupError, TypeError) as error:
        raise _stranger(address, status) from error
    if status == 401 and not was_keyed:
        message = (
            f"{message} ComfyUI takes the key from its environment: UNIPIC2_API_KEY, which goes to the server "
            f"that UNIPIC2_SERVER names ({default_server()}) and to no other."
        )
    if message is not None:
        msg = f"the UniPic2 server at {address} refused ({status}): {message}"
        raise UniPic2Error(msg)
    if not isinstance(answer, dict):
        raise _stranger(address, status)
    return answer


def _stranger(address: str, status: int = 200) -> UniPic2Error:
    msg = f"{address} answers ({status}), but not as a UniPic2 server does: check the address in `server`."
    return UniPic2Error(msg)
