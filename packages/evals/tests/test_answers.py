"""What models said survives being killed, and is asked once."""

import json
import threading

import pytest

from unipic2_evals.answers import Answers, Asker, CallError, JudgeId, ask_all
from unipic2_evals.pictures import Picture, Request

JUDGE = JudgeId("judge", "1")


@pytest.fixture
def requests(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    return [Request("reply", (Picture(path),), "?") for path in paths]


def test_answers_are_read_again(requests, tmp_path):
    path = tmp_path / "new" / "answers.jsonl"
    Answers(path).add(JUDGE, requests[0], "fine \u2713")
    assert Answers(path).get(JUDGE, requests[0]) == "fine \u2713"
    assert Answers(path).get(JUDGE, requests[1]) is None
    assert Answers(path).get(JudgeId("judge", "2"), requests[0]) is None
    assert json.loads(path.read_text()) == {
        "key": requests[0].key(),
        "kind": "reply",
        "judge": "judge",
        "revision": "1",
        "value": "fine \u2713",
    }


def test_half_a_line_is_dropped(requests, tmp_path):
    path = tmp_path / "answers.jsonl"
    answers = Answers(path)
    answers.add(JUDGE, requests[0], "whole")
    answers.add(JUDGE, requests[1], "cut")
    path.write_bytes(path.read_bytes()[:-9])
    again = Answers(path)
    assert again.get(JUDGE, requests[1]) is None
    again.add(JUDGE, requests[2], "next")
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == ["whole", "next"]


def test_broken_line_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: no 'judge' among its fields"):
        Answers(tmp_path / "a.jsonl")


@pytest.mark.parametrize("workers", [1, 3])
def test_each_is_asked_once_and_failures_again(requests, tmp_path, workers):
    answers, asked, lock = Answers(tmp_path / "answers.jsonl"), [], threading.Lock()

    def ask(request):
        with lock:
            asked.append(request.key())
        if request == requests[3]:
            raise CallError("overloaded")
        return "yes"

    seen = []
    asker = Asker(JUDGE, frozenset({"reply"}), ask, workers)
    failures = ask_all([*requests, requests[0]], answers, asker, lambda done, total: seen.append((done, total)))
    assert failures == {requests[3].key(): "overloaded"}
    assert sorted(asked) == sorted(request.key() for request in requests)
    assert sorted(seen) == [(done, 5) for done in range(1, 6)]
    asked.clear()
    ask_all(requests, Answers(answers.path), asker)
    assert asked == [requests[3].key()]


def test_error_stops_the_threads(requests, tmp_path):
    def ask(request):
        message = "wrong key"
        raise ValueError(message)

    with pytest.raises(ValueError, match="wrong key"):
        ask_all(requests, Answers(tmp_path / "a.jsonl"), Asker(JUDGE, frozenset({"reply"}), ask, 2))


def test_wrong_kind_of_model(requests, tmp_path):
    asker = Asker(JUDGE, frozenset({"detections"}), lambda request: {})
    with pytest.raises(ValueError, match="judge 'judge' gives detections; the benchmark wants reply"):
        ask_all(requests, Answers(tmp_path / "a.jsonl"), asker)


def test_choice_of_a_judge(requests, tmp_path):
    answers = Answers(tmp_path / "answers.jsonl")
    with pytest.raises(ValueError, match="found 0; answers are there of: none"):
        answers.choose()
    answers.add(JUDGE, requests[0], "a")
    assert answers.choose() == JUDGE
    answers.add(JudgeId("judge", "2"), requests[0], "b")
    with pytest.raises(ValueError, match=r"found 2; answers are there of: id 'judge' revision '1'; id 'judge'"):
        answers.choose("judge")
    assert answers.choose("judge", "2").revision == "2"
