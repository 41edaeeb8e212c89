"""Real HTTP servers on this machine; one does what a test tells it to, once a request, before it answers well."""

import json
import socket
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Troubled(ThreadingHTTPServer):
    """``script`` holds what to do with the next requests; ``answer(path, body)`` returns what to send otherwise."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.script, self.seen = answer, [], []
        self.at_once, self.most_at_once = 0, 0
        self.lock, self.released, self.meeting = threading.Lock(), threading.Event(), threading.Barrier(2)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._do(None)

    def do_POST(self):
        self._do(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _do(self, body):
        server = self.server
        with server.lock:
            server.seen.append((self.path, body))
            trouble = server.script.pop(0) if server.script else None
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._trouble(trouble, body)
        finally:
            with server.lock:
                server.at_once -= 1

    def _trouble(self, trouble, body):
        if trouble == "stall":
            self.server.released.wait(60)
        elif trouble == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif trouble == "drop in the middle":
            self._send(200, b'{"schema": ', length=100)
            self.connection.shutdown(socket.SHUT_RDWR)
        elif isinstance(trouble, int):
            self._send(trouble, b"no")
        elif isinstance(trouble, bytes):
            self._send(200, trouble)
        else:
            if trouble == "meet":
                self.server.meeting.wait(60)
            self._send(200, self.server.answer(self.path, body))

    def _send(self, status, data, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@contextmanager
def _running(server):
    """Serve in a thread, until it is left."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        if isinstance(server, Troubled):
            server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def serve():
    """Return a function that starts a server, which runs until the test ends."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(_running(server))


@pytest.fixture
def troubled(serve):
    """Return a function that starts a server with these good answers."""
    return lambda answer: serve(Troubled(answer))
