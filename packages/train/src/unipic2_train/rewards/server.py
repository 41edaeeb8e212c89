"""``unipic2-train reward-server``: serve any reward to `remote.RemoteReward`, by the standard library's HTTP server.

It trusts nobody's bytes: JSON and PNG alone are read, of limited size, and what is no request gets a 4xx that says why.
It has no keys and no TLS, so it listens on this machine unless told otherwise: open it to a network that you trust.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from unipic2_train.rewards import wire
from unipic2_train.rewards.base import Reward, scores_of

__all__ = ["RewardServer"]

PASSED_OVER = 2**16

logger = logging.getLogger(__name__)


class RewardServer(ThreadingHTTPServer):
    """Serves one reward; use it as a context, and ``serve_forever``.

    Args:
        address: Host and port; port 0 takes a free one.
        reward: What scores. One request at a time is scored, unless the reward itself waits for a server.
        max_bytes: Largest body.
        waiting: Requests that are held at a time; more get 503, which clients try again.
        patience: Seconds without any data from a client after which its connection is closed.

    Raises:
        ValueError: The reward can not be loaded or reached.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], reward: Reward, max_bytes: int = 64 * 2**20, waiting: int = 16,
        patience: float = 60.0,
    ) -> None:  # fmt: skip
        self.who = reward.prepare()
        self.reward, self.max_bytes, self.patience = reward, max_bytes, patience
        self.slots = threading.BoundedSemaphore(waiting)
        self.turn: AbstractContextManager[Any] = nullcontext() if reward.waits else threading.Lock()
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Leave a client that went away to itself."""
        logger.debug("connection to %s broke", client_address, exc_info=True)

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to ``POST /score``."""
        try:
            request = wire.read_request(body)
        except ValueError as error:
            return 400, str(error).encode()
        if request.kind not in self.reward.kinds:
            return 400, f"{self.who.id} scores {', '.join(self.reward.kinds)}, not {request.kind!r}".encode()
        try:
            with self.turn, torch.inference_mode():
                return 200, wire.write_reply(self.who, scores_of(self.who.id, self.reward, request))
        except ValueError as error:  # what rewards raise for rows that they can not score
            return 422, str(error).encode()
        except Exception as error:  # a defect, which costs this request and not the server
            logger.exception("%s could not score a request", self.who.id)
            return 500, type(error).__name__.encode()


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.patience)

    def do_GET(self) -> None:
        if self.path != "/health":
            return self._send(404, b"GET /health or POST /score")
        reward = self.server.reward
        return self._send(200, wire.write_health(self.server.who, reward.kinds, reward.whole_groups))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        refused = None
        if self.path != "/score":
            refused = 404, b"GET /health or POST /score"
        elif not length.isdecimal():
            refused = 411, b"a request needs its Content-Length"
        elif int(length) > self.server.max_bytes:
            refused = 413, f"{length} bytes are more than {self.server.max_bytes}: send fewer pictures".encode()
        if refused:
            return self._refuse(*refused)
        if not self.server.slots.acquire(blocking=False):
            return self._refuse(503, b"too many requests are waiting")
        try:
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.close_connection = True
                return self._send(400, b"the body is cut short")
            return self._send(*self.server.answer(body))
        finally:
            self.server.slots.release()

    def _refuse(self, status: int, said: bytes) -> None:
        """Answer a request whose body is not wanted, and end the connection.

        The body is passed over first: closing on unread bytes would break the connection before the answer is read.
        """
        self.close_connection = True
        length = self.headers.get("Content-Length", "")
        left = min(int(length), self.server.max_bytes) if length.isdecimal() else 0
        while left and (passed := len(self.rfile.read(min(left, PASSED_OVER)))):
            left -= passed
        self._send(status, said)

    def _send(self, status: int, said: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status == 200 else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(said)))
        if status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *arguments: object) -> None:
        logger.debug(format, *arguments)
