"""A real server on this machine that stalls, drops, refuses and talks nonsense before it answers."""

import base64
import io
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("urllib3")

from unipic2_evals.answers import Answers, CallError, ask_all
from unipic2_evals.http import ChatModel, HttpOptions, http_asker
from unipic2_evals.pictures import Picture, Request

IMAGE = np.full((2, 3, 3), 7, dtype=np.uint8)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen, self.at_once, self.most_at_once = [], [], 0, 0
        self.lock = threading.Lock()
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.seen.append((self.path, body, self.headers.get("Authorization")))
            trouble = server.script.pop(0) if server.script else "fine"
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._trouble(trouble, body)
        finally:
            with server.lock:
                server.at_once -= 1

    def _trouble(self, trouble, body):
        if trouble == "stall":
            self.server.released.wait(5)
        elif trouble == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif trouble == "drop in the middle":
            self._answer(200, b'{"choices": [', length=100)
            self.connection.shutdown(socket.SHUT_RDWR)
        elif isinstance(trouble, int):
            self._answer(trouble, b'{"error": "no"}')
        elif isinstance(trouble, bytes):
            self._answer(200, trouble)
        else:
            if trouble == "slow":
                time.sleep(0.1)
            text = body["messages"][0]["content"][0]["text"]
            self._answer(200, json.dumps({"choices": [{"message": {"content": f"re: {text}"}}]}).encode())

    def _answer(self, status, data, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.released.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def options(server):
    def make(**changes):
        url = f"http://127.0.0.1:{server.server_port}/v1"
        chosen = {"timeout": 0.3, "pause": 0.01, "tries": 4, "key_variable": "EVALS_TEST_KEY", **changes}
        return HttpOptions(url, "judge", "2025-01", **chosen)

    return make


def test_call(server, options, monkeypatch):
    monkeypatch.setenv("EVALS_TEST_KEY", "k")
    assert ChatModel(options())([IMAGE, IMAGE], "how good?") == "re: how good?"
    ((path, body, authorization),) = server.seen
    assert (path, authorization) == ("/v1/chat/completions", "Bearer k")
    assert {key: body[key] for key in ("model", "temperature", "max_tokens")} == {
        "model": "judge",
        "temperature": 0,
        "max_tokens": 1024,
    }
    text, first, _ = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "how good?"}
    data = base64.b64decode(first["image_url"]["url"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), IMAGE)


def test_the_whole_choice(server, options):
    choice = {"message": {"content": "5"}, "logprobs": {"content": [{"token": "5", "logprob": -0.1}]}}
    server.script = [b'{"choices": [{"logprobs": {}}]}', json.dumps({"choices": [choice, {}]}).encode()]
    assert ChatModel(options())([], "x") == "5"
    server.script = [json.dumps({"choices": [choice]}).encode()]
    assert ChatModel(options(max_tokens=1)).choice([], "x", {"logprobs": True, "top_logprobs": 3}) == choice
    asked = [{key: body.get(key) for key in ("logprobs", "top_logprobs", "max_tokens")} for _, body, _ in server.seen]
    plain = {"logprobs": None, "top_logprobs": None, "max_tokens": 1024}
    assert asked == [plain, plain, {"logprobs": True, "top_logprobs": 3, "max_tokens": 1}]


@pytest.mark.parametrize(
    "trouble",
    [
        *("stall", "drop", "drop in the middle", 429, 500, 503, b"<html>", b"{}", b'{"choices": []}', b"[" * 9999),
        *(b'{"choices": [{"message": {"content": null}}]}', b'{"choices": [{"message": {"content": " "}}]}', b"\xff"),
    ],
)
def test_what_passes_is_tried_again(server, options, trouble):
    server.script = [trouble]
    assert ChatModel(options())([], "x") == "re: x"
    assert len(server.seen) == 2


def test_gives_up_and_says_why(server, options):
    server.script = [500, "drop", 429, b"nonsense"]
    with pytest.raises(CallError, match=r"4 tries failed, the last one: no text in the answer: 'nonsense'"):
        ChatModel(options())([], "x")
    assert len(server.seen) == 4


def test_pauses_grow_and_obey_the_server(options):
    model = ChatModel(options(pause=1.0))
    assert 0.5 <= model._pause(1, 0) <= 1.5
    assert 4 <= model._pause(4, 0) <= 12
    assert model._pause(1, 20) == 20
    assert model._pause(20, 0) == 60


def test_one_refused_request_is_not_tried_again(server, options):
    server.script = [400]
    with pytest.raises(CallError, match="the server refuses the request: status 400"):
        ChatModel(options())([], "x")
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [401, 404, 301])
def test_what_concerns_all_requests_ends_the_run(server, options, status):
    server.script = [status]
    with pytest.raises(ValueError, match=rf"status {status}: .*the key in \$EVALS_TEST_KEY"):
        ChatModel(options())([], "x")


def test_nobody_there(options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(CallError, match="NewConnectionError"):
        ChatModel(HttpOptions(url, "m", "r", tries=2, pause=0.0))([], "x")
    with pytest.raises(ValueError, match="no address"):
        ChatModel(HttpOptions("http:///v1", "m", "r"))([], "x")


@pytest.mark.parametrize("changes", [{"tries": 0}, {"concurrency": 0}, {"timeout": -1}])
def test_useless_options_are_refused(options, changes):
    with pytest.raises(ValueError, match="expected concurrency, tries"):
        ChatModel(options(**changes))


@pytest.fixture
def requests(tmp_path):
    for number in range(6):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return [Request("reply", (Picture(tmp_path / f"{number}.png"),), f"q{number}") for number in range(6)]


def test_concurrent_and_resumed(server, options, requests, tmp_path):
    server.script = ["slow"] * 6
    asker = http_asker(options(concurrency=3, tries=1, timeout=2.0))
    path = tmp_path / "answers.jsonl"
    assert ask_all(requests[:5], Answers(path), asker) == {}
    assert 2 <= server.most_at_once <= 3
    server.seen.clear()
    server.script = [500]
    assert len(ask_all(requests, Answers(path), asker)) == 1
    assert ask_all(requests, Answers(path), asker) == {}
    assert [body["messages"][0]["content"][0]["text"] for _, body, _ in server.seen] == ["q5", "q5"]
    assert Answers(path).get(asker.judge, requests[2]) == "re: q2"
    assert asker.judge == ("judge", "2025-01; temperature 0, 1024 tokens at most")


def test_fatal_error_leaves_the_rest_unasked(server, options, requests, tmp_path):
    server.script = [401] * 6
    with pytest.raises(ValueError, match="status 401"):
        ask_all(requests, Answers(tmp_path / "a.jsonl"), http_asker(options(concurrency=2)))
    assert len(server.seen) < 6
