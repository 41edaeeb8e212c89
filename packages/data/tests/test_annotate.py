"""A judge and a captioner behind a local server that stalls, hangs up, fails and talks nonsense."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image as Picture

from unipic2_data.annotate import annotate, judge, recaption
from unipic2_data.endpoint import Endpoint, Unanswered
from unipic2_data.errors import DataError
from unipic2_data.importer import import_source
from unipic2_data.manifest import Manifest
from unipic2_data.notes import Notes, data_id
from unipic2_data.sample import Image, Sample
from unipic2_data.scan import scan


class Handler(BaseHTTPRequestHandler):
    """Answers chat completions, or does what the server's script says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        act = self.server.script.pop(0) if self.server.script else "answer"
        if isinstance(act, int):
            self.say(b"no", act, wait="0" if act == 429 else None)
        else:
            getattr(self, act)()

    def say(self, data, status=200, length=None, wait=None):
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(data)))
        if wait:
            self.send_header("Retry-After", wait)
        self.end_headers()
        self.wfile.write(data)

    def complete(self, content):
        self.say(json.dumps({"choices": [{"message": {"content": content}}]}).encode())

    def answer(self):
        self.complete(self.server.reply)

    def empty(self):
        self.complete(None)

    def blank(self):
        self.complete(" ")

    def chatter(self):
        self.complete("I like it: {}")

    def garbage(self):
        self.say(b"<html>gateway</html>")

    def other_json(self):
        self.say(b'{"choices": []}')

    def deep(self):
        self.say(b"[" * 100_000)

    def stall(self):
        time.sleep(1)
        self.close_connection = True

    def hang_up(self):
        self.close_connection = True
        self.connection.close()

    def hang_up_in_the_middle(self):
        self.say(b'{"choices": [', length=1000)
        self.close_connection = True

    def drip(self):
        self.say(b"", length=1000)
        for _ in range(20):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.05)
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.reply = [], [], '{"quality": 7}'
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def endpoint(server, **options):
    return Endpoint(server.url, "vlm", **{"timeout": 0.3, "retries": 3, "pause": 0.01} | options)


@pytest.fixture
def data(tmp_path, files):
    """Six captioned pictures and an edit."""
    for n in range(6):
        files.write(tmp_path / "in" / f"{n}.png", files.picture(n, (40, 30), "PNG"))
        files.write(tmp_path / "in" / f"{n}.txt", f"caption {n}")
    edit = {"source": "0.png", "target": "1.png", "instruction": "change it"}
    files.lines(tmp_path / "in" / "edits.jsonl", [edit])
    return import_source(tmp_path / "in", tmp_path / "data", validation_fraction=0).manifest


ANSWERS = [
    "stall",
    "hang_up",
    "hang_up_in_the_middle",
    "drip",
    "garbage",
    "other_json",
    "deep",
    "empty",
    "blank",
    500,
    503,
    429,
]


@pytest.mark.parametrize("fault", ANSWERS)
def test_what_passes_is_asked_again(server, fault):
    server.script = [fault, fault]
    assert endpoint(server).ask("?", [], str) == server.reply
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("stall", "no answer within 0.3 s"),
        ("drip", "no answer within 0.3 s"),
        ("hang_up", "connection failed"),
        ("garbage", "answer is no chat completion"),
        ("empty", "answer is empty"),
        (500, "HTTP 500"),
    ],
)
def test_what_does_not_pass_has_a_reason(server, fault, reason):
    server.script = [fault] * 9
    with pytest.raises(Unanswered, match=reason):
        endpoint(server, retries=1).ask("?", [], str)
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [401, 404, 302])
def test_what_concerns_all_questions_is_an_error_at_once(server, status):
    server.script = [status]
    with pytest.raises(DataError, match=f"answered HTTP {status}.*Check address, model and .OPENAI_API_KEY"):
        endpoint(server).ask("?", [], str)
    with pytest.raises(DataError, match="is no address"):
        Endpoint("http://[", "vlm").ask("?", [], str)


def test_what_concerns_one_question_is_not_asked_again(server):
    server.script = [400]
    with pytest.raises(Unanswered, match="question is refused"):
        endpoint(server).ask("?", [], str)
    with pytest.raises(Unanswered, match="picture is unreadable"):
        endpoint(server).ask("?", [Image(b"no picture")], str)
    assert len(server.requests) == 1


def test_nobody_there():
    with pytest.raises(Unanswered, match="nobody listens there"):
        Endpoint("http://127.0.0.1:9/v1", "vlm", retries=1, pause=0.01).ask("?", [], str)


def test_what_is_sent(server, files, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    sample = Sample(
        "k", "edit", {"instruction": ["do it", "x"]}, Image(files.picture(1, (600, 300))), [Image(files.picture(2))]
    )
    assert judge(endpoint(server, side=200), 'Is it "{text}"? {"a": 1}')(sample) == {"scores": {"quality": 7}}
    ((path, key, body),) = server.requests
    assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer word", "vlm", 0)
    *images, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": 'Is it "do it"? {"a": 1}'}
    sizes = []
    for image in images:
        data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
        sizes.append(Picture.open(io.BytesIO(data)).size)
    assert sizes == [(24, 16), (200, 100)]


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ('{"a": 1, "b": 2.5}', {"a": 1, "b": 2.5}),
        ('Let me think. {"draft": 3}\n```json\n{"a": 9, "why": "good", "sure": true}\n```', {"a": 9}),
        ('{"a": NaN, "b": 4, "c": -Infinity}', {"b": 4}),
    ],
)
def test_scores_are_read_from_answers(server, files, reply, scores):
    server.reply = reply
    server.script = ["chatter"]
    sample = Sample("k", "t2i", {"captions": ["x"]}, Image(files.picture(1)))
    assert judge(endpoint(server))(sample) == {"scores": scores}


def test_every_sample_gets_a_note_once(server, data, tmp_path):
    server.script = ["stall", 500, "garbage", "hang_up"]
    out = tmp_path / "scores.jsonl"
    report = annotate(data.root, out, judge(endpoint(server)), concurrency=3)
    assert str(report) == "7 noted, 0 had a note before, 0 without an answer"
    assert len(server.requests) == 11
    notes = [json.loads(line) for line in out.read_text().splitlines()]
    keys = {scanned.sample.key for shard in data.shards for scanned in scan(data, shard)}
    assert {note["key"] for note in notes} == keys
    assert all(note["scores"] == {"quality": 7} and note["data"] == data_id(data) for note in notes)
    again = annotate(data.root, out, judge(endpoint(server)))
    assert (again.noted, again.before) == (0, 7)
    assert len(server.requests) == 11


def test_goes_on_after_a_kill(server, data, tmp_path):
    """The file ends in the middle of a line, as after a kill: that note is asked for again, the others are kept."""
    out = tmp_path / "captions.jsonl"
    server.reply = " two\nlines "
    annotate(data.root, out, recaption(endpoint(server)))
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.rindex(b'"key"') + 9])
    before = len(server.requests)
    report = annotate(data.root, out, recaption(endpoint(server)))
    assert (report.noted, report.before) == (1, 6)
    assert len(server.requests) == before + 1
    notes = Notes([out])
    assert len(notes) == 7
    key = json.loads(whole.splitlines()[0])["key"]
    assert list(notes.of(data_id(data), key)[0].values())[2] == ["two lines"]


def test_failures_are_counted_and_asked_for_again(data, tmp_path):
    fails = {"0", "3"}

    def answer(sample):
        if sample.key[0] in fails:
            raise Unanswered("no idea")
        return {"scores": {"x": 1}}

    report = annotate(data.root, tmp_path / "x.jsonl", answer)
    assert report.failed == {"no idea": 2}
    assert "2 x no idea\nrun the same command again" in str(report)
    fails.clear()
    assert annotate(data.root, tmp_path / "x.jsonl", answer).noted == 2


def test_a_dead_endpoint_stops_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr("unipic2_data.annotate._GIVE_UP", 3)
    stopped = []

    def answer(_):
        raise Unanswered("nobody there")

    with pytest.raises(DataError, match="no answer 3 times in a row, at last: nobody there"):
        annotate(data.root, tmp_path / "x.jsonl", answer, concurrency=1, stop=lambda: stopped.append(True))
    assert stopped == [True]


def test_a_stopped_endpoint_gives_up(server):
    asked = endpoint(server, pause=30)
    server.script = [500] * 9
    threading.Timer(0.2, asked.stop).start()
    start = time.monotonic()
    with pytest.raises(Unanswered, match="HTTP 500"):
        asked.ask("?", [], str)
    assert time.monotonic() - start < 5


def test_prompts_have_nothing_to_look_at(server):
    with pytest.raises(Unanswered, match="nothing to ask about a prompt sample"):
        judge(endpoint(server))(Sample("k", "prompt", {"captions": ["x"]}))


def test_one_split(server, world, tmp_path):
    manifest = Manifest.load(world.root)
    report = annotate(world.root, tmp_path / "x.jsonl", lambda _: {"scores": {"x": 1}}, split="test")
    assert report.noted == sum(manifest.counts["test"].values())
