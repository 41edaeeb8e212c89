"""Rewards over HTTP: what is sent, a real server of real rewards, and servers in trouble."""

import http.client
import json
import logging
import socket
import threading

import numpy as np
import pytest
import torch

from unipic2_evals.answers import JudgeId
from unipic2_train.rewards import wire
from unipic2_train.rewards.base import Reward, RewardRequest, scores_of
from unipic2_train.rewards.brightness import BrightnessReward
from unipic2_train.rewards.preservation import PreservationReward
from unipic2_train.rewards.remote import RemoteReward
from unipic2_train.rewards.server import RewardServer

WHO = JudgeId("scorer", "1")


def pictures(count, seed=0, size=(6, 5)):
    values = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return torch.from_numpy(values)


def t2i(count, groups=None):
    meta = [{"number": row, "nested": {"a": [1, None]}} for row in range(count)]
    groups = groups or ["row"] * count
    return RewardRequest("t2i", pictures(count), [f"prompt {row} \u00e9" for row in range(count)], groups, meta)


def edits(count):
    source, target = pictures(1, 1, (16, 16)), pictures(1, 1, (16, 16))
    target[:, :4, :4] = 255 - target[:, :4, :4]
    return RewardRequest("edit", pictures(count, 2, (16, 16)), ["do it"] * count, ["row"] * count, [{}] * count,
                         source.expand(count, -1, -1, -1), target.expand(count, -1, -1, -1))  # fmt: skip


@pytest.mark.parametrize("request_", [t2i(3), edits(3)], ids=["t2i", "edit"])
def test_a_request_arrives_as_it_was_sent(request_):
    body = wire.write_request(request_)
    found = wire.read_request(body)
    for name in ("kind", "prompts", "groups", "meta"):
        assert getattr(found, name) == getattr(request_, name)
    for name in ("pictures", "sources", "targets"):
        sent, got = getattr(request_, name), getattr(found, name)
        assert (sent is None) == (got is None)
        assert sent is None or torch.equal(sent, got)
    shown = 3 if request_.kind == "t2i" else 5
    assert len(json.loads(body)["pictures"]) == shown, "a source that rows share is sent once"


def test_a_reply_arrives_as_it_was_sent():
    scores = torch.tensor([0.1, float("nan"), -3.0], dtype=torch.float64)
    who, found = wire.read_reply(wire.write_reply(WHO, scores), 3)
    assert who == WHO
    torch.testing.assert_close(found, scores, rtol=0, atol=0, equal_nan=True)


def changed(**changes):
    """Return a valid request with other fields."""
    fields = json.loads(wire.write_request(t2i(2))) | changes
    return json.dumps(fields).encode()


def png(size):
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("1", size).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


ROW = {"picture": 0, "prompt": "x", "group": "g", "meta": {}}
GARBAGE = [
    (b"", "no JSON"),
    (b"\xff", "no UTF-8"),
    (b"[" * 99999, "no JSON"),
    (b"[]", "expected a mapping"),
    (b"{}", "no 'schema'"),
    (changed(schema="unipic2-reward/2"), "expected schema 'unipic2-reward/1', got 'unipic2-reward/2'"),
    (changed(kind=3), "kind: expected text"),
    (changed(rows=[]), "rows: expected a list with 1"),
    (changed(rows=[3]), "row 0: expected a mapping"),
    (changed(rows=[ROW | {"picture": 2}]), "picture of row 0: expected the number of one of 2 pictures, got 2"),
    (changed(rows=[ROW | {"picture": True}]), "picture of row 0"),
    (changed(rows=[ROW | {"meta": 1}]), "meta of row 0"),
    (changed(rows=[ROW | {"source": 1}, ROW]), "row 1: no 'source'"),
    (changed(pictures=["!", "!"]), "picture 0: expected PNG in base64"),
    (changed(pictures=["R0lGODlhAQABAAAAACw=", "x"]), "picture 0: expected PNG in base64"),
    (changed(pictures=[png((2, 2))[:60], png((2, 2))]), "picture 0: expected PNG in base64"),
    (changed(pictures=[png((4097, 4096))] * 2), "more than 16777216"),
    (changed(pictures=[png((2, 2)), png((3, 2))]), r"have the sizes \[\(2, 2\), \(2, 3\)\]"),
]


@pytest.mark.parametrize(("body", "says"), GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_request(body, says):
    with pytest.raises(ValueError, match=says):
        wire.read_request(body)


@pytest.fixture
def remote():
    """Return a function that makes the client of a server."""

    def make(server, who=WHO, **changes):
        options = {"tries": 3, "timeout": 60, "pause": 0.01, "batch": 2, "concurrency": 2, **changes}
        return RemoteReward(server.url, who.id, who.revision, **options)

    return make


@pytest.mark.parametrize(
    ("reward", "request_"), [(BrightnessReward(), t2i(5)), (PreservationReward(), edits(5))], ids=["t2i", "edit"]
)
def test_a_served_reward_is_that_reward(serve, remote, reward, request_):
    server = serve(RewardServer(("127.0.0.1", 0), reward))
    client = remote(server, server.who)
    assert client.prepare() == reward.prepare()
    assert client.kinds == reward.kinds
    expected = scores_of("local", reward, request_)
    assert torch.equal(scores_of("remote", client, request_), expected)


def raw(server, method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


class Odd(Reward):
    """Raises what it is told to."""

    kinds = ("t2i",)
    error = None

    def __call__(self, request):
        if self.error:
            raise self.error
        return torch.ones(len(request))


@pytest.fixture
def odd(serve):
    return serve(RewardServer(("127.0.0.1", 0), Odd(), max_bytes=10_000, patience=60))


def test_the_server_refuses_what_is_no_request(odd):
    good = wire.write_request(t2i(1))
    assert raw(odd, "POST", "/score", b"{}") == (400, "request: no 'schema' among its fields []")
    assert raw(odd, "POST", "/score", wire.write_request(edits(1))) == (400, "Odd scores t2i, not 'edit'")
    assert raw(odd, "POST", "/other", good)[0] == raw(odd, "GET", "/")[0] == 404
    assert raw(odd, "POST", "/score", b"x" * 10_001)[0] == 413
    assert raw(odd, "POST", "/score", b"", **{"Content-Length": "many"})[0] == 411
    assert raw(odd, "PUT", "/score")[0] == 501
    status, said = raw(odd, "POST", "/score", good)
    assert (status, json.loads(said)["scores"]) == (200, [1.0])


def test_the_server_survives_what_goes_wrong(odd, caplog):
    odd.reward.error = ValueError("no GenEval metadata")
    assert raw(odd, "POST", "/score", wire.write_request(t2i(1))) == (422, "no GenEval metadata")
    odd.reward.error = KeyError("a defect")
    with caplog.at_level(logging.ERROR):
        assert raw(odd, "POST", "/score", wire.write_request(t2i(1))) == (500, "KeyError")
    assert "a defect" in caplog.text
    odd.patience = 0.05
    with socket.create_connection(odd.server_address) as idle:
        idle.sendall(b"POST /score HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        idle.settimeout(60)
        assert idle.recv(100) == b"", "who sends nothing more is not waited for"
    odd.reward.error, odd.patience = None, 60
    assert raw(odd, "POST", "/score", wire.write_request(t2i(1)))[0] == 200


def test_a_crowd_is_told_to_come_again(serve, remote):
    entered, gate = threading.Event(), threading.Event()

    class Slow(Odd):
        def __call__(self, request):
            entered.set()
            gate.wait(60)
            return torch.ones(len(request))

    server = serve(RewardServer(("127.0.0.1", 0), Slow(), waiting=1))
    first = threading.Thread(target=raw, args=(server, "POST", "/score", wire.write_request(t2i(1))))
    first.start()
    entered.wait(60)
    assert raw(server, "POST", "/score", wire.write_request(t2i(1)))[0] == 503
    gate.set()
    first.join()
    assert raw(server, "POST", "/score", wire.write_request(t2i(1)))[0] == 200


def reply(path, body):
    """Answer as a good server does: the mean of each picture."""
    if path == "/health":
        return wire.write_health(WHO, ("t2i",), False)
    request = wire.read_request(json.dumps(body).encode())
    return wire.write_reply(WHO, BrightnessReward()(request))


@pytest.mark.parametrize("trouble", ["stall", "drop", "drop in the middle", 500, 503, 429])
def test_what_passes_is_tried_again(troubled, remote, trouble):
    server = troubled(reply)
    server.script = [trouble]
    patient = {"timeout": 0.3, "tries": 50} if trouble == "stall" else {}  # also a busy machine answers one of 50
    assert torch.equal(remote(server, **patient)(t2i(2)), BrightnessReward()(t2i(2)))
    assert len(server.seen) >= 2


TOO_FEW = wire.write_reply(WHO, torch.ones(1))
NOTHING = [
    (["drop"] * 3, "3 tries failed"),
    ([500] * 3, "status 500: no"),
    ([413], "status 413"),
    ([b"<html>"], "reply: no JSON"),
    ([b"[" * 9999], "reply: no JSON"),
    ([TOO_FEW], "reply: 1 scores for 2 rows"),
    ([TOO_FEW.replace(b"[1.0]", b'["1", 2]')], "score 0: expected a finite number"),
    ([TOO_FEW.replace(b"1.0", b"1e999, 1")], "score 0: expected a finite number"),
]


@pytest.mark.parametrize(("script", "says"), NOTHING, ids=[says for _, says in NOTHING])
def test_failed_scores_are_no_scores(troubled, remote, caplog, script, says):
    server = troubled(reply)
    client = remote(server, concurrency=1)
    server.script = script
    scores = client(t2i(4))
    assert scores.isnan().tolist() == [True, True, False, False], "the other request is not concerned"
    assert "no scores for 2 pictures" in caplog.text
    assert says in caplog.text


def test_a_server_that_only_stalls(troubled, remote, caplog):
    server = troubled(reply)
    server.script = ["stall"] * 99
    assert remote(server, timeout=0.05)(t2i(4)).isnan().all()
    assert "3 tries failed" in caplog.text
    assert len(server.seen) <= 6


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (TOO_FEW.replace(b"reward/1", b"reward/2"), "expected schema 'unipic2-reward/1', got 'unipic2-reward/2'"),
        (wire.write_reply(JudgeId("scorer", "2"), torch.ones(2)), r"scores by scorer \(2\), .* says scorer \(1\)"),
        (404, "status 404: no; is this the address"),
        (302, "status 302"),
    ],
)
def test_another_reward_ends_the_run(troubled, remote, answer, says):
    server = troubled(reply)
    server.script = [answer]
    with pytest.raises(ValueError, match=says):
        remote(server)(t2i(2))


@pytest.mark.parametrize(
    ("script", "says"), [(["drop"] * 3, "is it up"), ([b"{}"], "no 'schema'"), ([b"<html>"], "no JSON"), ([404], "404")]
)
def test_a_run_does_not_start_without_its_server(troubled, remote, script, says):
    server = troubled(reply)
    server.script = script
    with pytest.raises(ValueError, match=says):
        remote(server).prepare()
    with pytest.raises(ValueError, match="no address"):
        RemoteReward("http://", "m", "r").prepare()


def test_requests_are_bounded_and_in_order(troubled, remote):
    server = troubled(reply)
    server.script = ["meet"] * 2
    request = t2i(11)
    assert torch.equal(remote(server)(request), BrightnessReward()(request))
    assert server.most_at_once == 2
    assert sorted(len(body["rows"]) for _, body in server.seen) == [1, 2, 2, 2, 2, 2]


def test_groups_stay_together_if_the_reward_compares_them(troubled, remote):
    server = troubled(lambda path, body: wire.write_health(WHO, ("t2i",), True) if body is None else reply(path, body))
    client = remote(server)
    client.prepare()
    request = t2i(6, ["a", "b", "a", "b", "a", "c"])
    assert torch.equal(client(request), BrightnessReward()(request))
    sent = [[row["group"] for row in body["rows"]] for path, body in server.seen if path == "/score"]
    assert sorted(sent) == [["a"] * 3, ["b"] * 2, ["c"]]


@pytest.mark.parametrize("changes", [{"batch": 0}, {"tries": 0}, {"concurrency": 0}, {"timeout": -1.0}])
def test_useless_options(changes):
    with pytest.raises(ValueError, match="expected batch, concurrency and tries >= 1"):
        RemoteReward("http://x", "m", "r", **changes)
