"""Whom a name means, and that each kind of question reaches the right model."""

import numpy as np
import pytest
from PIL import Image

from unipic2_evals.answers import Answers, JudgeId
from unipic2_evals.http import HttpOptions
from unipic2_evals.judges import find_judge, model_asker
from unipic2_evals.local import LocalOptions
from unipic2_evals.pictures import Picture, Request

JUDGE = JudgeId("me", "1")
HTTP = HttpOptions("http://127.0.0.1:1/v1", "m", "r")


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (4, 2), (9, 9, 9)).save(tmp_path / "p.png")
    return Picture(tmp_path / "p.png")


def test_each_kind_has_its_model(picture):
    asker = model_asker(
        JUDGE,
        detector=lambda images: [({"dog": np.ones((1, 5))}, {"dog": ("red",)}) for _ in images],
        vqa=lambda image, question: f"{question} {image.shape}",
        judge=lambda images, prompt: f"{prompt} {len(images)}",
    )
    assert asker.kinds == {"detections", "answer", "reply"}
    seen = asker.ask(Request("detections", (picture,)))
    assert seen == {"objects": {"dog": [[1.0] * 5]}, "colors": {"dog": ["red"]}}
    assert asker.ask(Request("answer", (picture,), "a cat?")) == "a cat? (2, 4, 3)"
    assert asker.ask(Request("reply", (picture, picture), "rate")) == "rate 2"
    assert model_asker(JUDGE, vqa=lambda image, question: "").kinds == {"answer"}


def test_replay(tmp_path, picture):
    answers = Answers(tmp_path / "a.jsonl")
    answers.add(JUDGE, Request("reply", (picture,), "x"), "y")
    assert find_judge("replay", answers) == (JUDGE, None)


def test_served_model(tmp_path):
    pytest.importorskip("urllib3")
    judge, asker = find_judge("http", Answers(tmp_path / "a.jsonl"), http=HTTP)
    assert judge.id == "m"
    assert asker.kinds == {"answer", "reply"}
    assert asker.workers == HTTP.concurrency


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("http", {}, "--judge http and --http.url, .* go together"),
        ("replay", {"http": HTTP}, "go together, got --judge replay"),
        ("local", {}, "--judge local and --local.detector, --local.clip go together"),
        ("replay", {"local": LocalOptions("a", "b")}, "go together, got --judge replay"),
        ("nobody", {}, "--judge: expected one of replay, http, local"),
        ("http", {"judge_id": "x"}, "choose among answers of --judge replay"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        find_judge(name, Answers(tmp_path / "a.jsonl"), **options)
