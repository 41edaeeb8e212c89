"""Judges behind a real server that answers as vLLM does: what is asked, how answers are read, what has no score."""

import base64
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from unipic2_evals.answers import CallError
from unipic2_evals.http import HttpOptions
from unipic2_train.rewards.base import RewardRequest
from unipic2_train.rewards.ocr import OcrReward
from unipic2_train.rewards.vlm import VLMJudge, expected_digit, score_in_words
from unipic2_train.rewards.vlm_edit import VLMEditJudge
from unipic2_train.rewards.vlm_pairwise import VLMPairwise, pairs_of, preference

VIE = """
_context_no_delimit = "You are an artist."
_prompts_0shot_two_image_edit_rule = '''Two images.'''
_prompts_0shot_tie_rule_SC = "Rate: <instruction>"
_prompts_0shot_rule_PQ = "Rate the picture."
"""


def of(*shades, kind="t2i", groups=None, source=0):
    """Return a request of pictures in even shades of grey."""
    pictures = torch.stack([torch.full((8, 8, 3), shade, dtype=torch.uint8) for shade in shades])
    count = len(shades)
    sources = torch.full((count, 8, 8, 3), source, dtype=torch.uint8) if kind == "edit" else None
    groups = groups or ["row"] * count
    return RewardRequest(kind, pictures, [f"p{shade}" for shade in shades], groups, [{}] * count, sources)


def shades_in(body):
    """Return the shades of the pictures in a chat request, and its text."""
    text, *images = body["messages"][0]["content"]
    data = [base64.b64decode(image["image_url"]["url"].partition(",")[2]) for image in images]
    return [int(np.array(Image.open(io.BytesIO(png)))[0, 0, 0]) for png in data], text["text"]


def chat(text, odds=None):
    choice = {"message": {"content": text}}
    if odds is not None:
        tokens = [{"token": token, "logprob": math.log(share)} for token, share in odds.items()]
        choice["logprobs"] = {"content": [{"token": text, "top_logprobs": tokens}]}
    return json.dumps({"choices": [choice]}).encode()


@pytest.fixture
def judged(troubled):
    """Return a function that starts a judge and returns its server and options."""

    def start(answer, **changes):
        server = troubled(lambda path, body: answer(*shades_in(body), body))
        options = {"timeout": 60.0, "pause": 0.01, "tries": 2, "concurrency": 2, **changes}
        return server, HttpOptions(f"{server.url}/v1", "judge", "r1", **options)

    return start


def test_expected_digit_of_the_first_token(judged):
    def answer(shades, text, body):
        assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
        if "digit 5" in text:
            return chat("5", {"5": 1.0})
        assert f"request:\np{shades[0]}\n" in text
        return chat("4", {"4": 0.5, " 5": 0.25, "2": 0.05, "the": 0.2} if shades[0] == 1 else {"0": 0.4, "5": 0.4})

    _, options = judged(answer)
    reward = VLMJudge(options)
    assert reward.prepare().id == "judge"
    assert reward.waits
    assert reward(of(1, 2)).tolist() == pytest.approx([(2 + 1.25 + 0.1) / 0.8 / 5, 0.5])


def test_of_an_edit_the_source_is_shown_first(judged):
    server, options = judged(lambda shades, text, body: chat('{"reasoning": "x", "score": 7}'))
    reward = VLMJudge(options, by="words")
    assert reward(of(3, 4, kind="edit", source=9)).tolist() == [0.7, 0.7]
    seen = sorted(shades_in(body) for _, body in server.seen)
    assert [shades for shades, _ in seen] == [[9, 3], [9, 4]]
    assert "instruction:\np3\n" in seen[0][1]
    assert "logprobs" not in server.seen[0][1]


def test_what_can_not_be_read_has_no_score(judged, caplog):
    replies = {1: chat("hm", {"hm": 0.9, "5": 0.05}), 2: chat("5"), 3: chat("5", {"5": 0.9})}
    _, options = judged(lambda shades, text, body: replies[shades[0]])
    scores = VLMJudge(options)(of(1, 2, 3))
    assert scores.isnan().tolist() == [True, True, False]
    assert "2 of 3 questions to judge failed" in caplog.text
    with pytest.raises(CallError, match=r"0 to 5 has a probability of 0.05 alone; likely were: 'hm' 0.90, '5' 0.05"):
        expected_digit({"hm": 0.9, "5": 0.05})


def test_a_judge_that_stalls(judged):
    server, options = judged(lambda shades, text, body: chat("5", {"5": 1.0}), timeout=0.05)
    server.script = ["stall"] * 99
    assert VLMJudge(options)(of(1, 2)).isnan().all()
    with pytest.raises(ValueError, match="2 tries failed"):
        VLMJudge(options).prepare()


@pytest.mark.parametrize("trouble", ["drop", 500, b"<html>"])
def test_a_judge_in_trouble(judged, trouble):
    server, options = judged(lambda shades, text, body: chat("5", {"5": 1.0}), concurrency=1)
    server.script = [trouble]
    assert VLMJudge(options)(of(1, 2)).tolist() == [1, 1], "once is tried again"
    server.script = [trouble] * 2
    assert VLMJudge(options)(of(1, 2)).isnan().tolist() == [True, False]
    server.script = [trouble] * 2
    with pytest.raises(ValueError, match=r"the judge judge at http.* does not answer as it should"):
        VLMJudge(options).prepare()


def test_a_judge_without_probabilities_is_found_out_before_a_run(judged):
    _, options = judged(lambda shades, text, body: chat("5"))
    with pytest.raises(ValueError, match=r"no top_logprobs \(KeyError\); does the server allow 20"):
        VLMJudge(options).prepare()
    VLMJudge(options, by="words").prepare()


def test_a_question_of_ones_own(judged):
    server, options = judged(lambda shades, text, body: chat("5", {"5": 1.0}))
    VLMJudge(options, question="Is it <prompt>? {0-5}")(of(1))
    assert shades_in(server.seen[0][1]) == ([1], "Is it p1? {0-5}")
    with pytest.raises(ValueError, match="question must say with <prompt> where the prompt goes"):
        VLMJudge(options, question="Is it good?")


def test_a_wrong_key_ends_the_run(judged):
    server, options = judged(lambda shades, text, body: chat("5", {"5": 1.0}))
    server.script = [401]
    with pytest.raises(ValueError, match="status 401"):
        VLMJudge(options)(of(1))


@pytest.mark.parametrize(
    ("reply", "score"),
    [('{"score": 7}', 7), ('so: {"reasoning": "a", "score": [9, 4]}', 4), ("8", 8), ("[3, 5]", 3),
     ("{'score': 7}", None), ('{"score": 11}', None), ("good", None), ("", None)],
)  # fmt: skip
def test_scores_in_words(reply, score):
    if score is None:
        with pytest.raises(CallError, match="no score from 0 to 10"):
            score_in_words(reply)
    else:
        assert score_in_words(reply) == score


def lighter(shades, text, body):
    """Prefer the lighter of the last two pictures."""
    a, b = shades[-2:]
    return chat("C" if a == b else f"Picture {'A' if a > b else 'B'}")


def test_win_rates_within_groups(judged):
    server, options = judged(lighter)
    request = of(1, 2, 3, 10, 10, 200, groups=["a", "a", "a", "b", "b", "c"])
    scores = VLMPairwise(options, rivals=5)(request)
    assert scores[:5].tolist() == [0, 0.5, 1, 0.5, 0.5]
    assert scores[5].isnan(), "there was nothing to compare it with"
    shown = [tuple(shades_in(body)[0]) for _, body in server.seen]
    assert {(2, 1), (1, 2), (10, 10)} < set(shown), "both ways round"
    assert len(shown) == 2 * (3 + 1)


def test_a_judge_that_likes_a_place_says_nothing(judged):
    _, options = judged(lambda shades, text, body: chat("A"))
    assert VLMPairwise(options)(of(1, 2, 3)).tolist() == [0.5] * 3


def test_failed_comparisons_are_left_out(judged):
    def answer(shades, text, body):
        return chat("neither") if 3 in shades else lighter(shades, text, body)

    server, options = judged(answer)
    request = of(1, 2, 3, kind="edit")
    assert VLMPairwise(options)(request).tolist()[:2] == [0, 1]
    assert VLMPairwise(options)(request)[2].isnan()
    assert len(shades_in(server.seen[0][1])[0]) == 3, "source, A and B"


@pytest.mark.parametrize(("count", "rivals", "number"), [(1, 2, 0), (2, 2, 1), (6, 2, 12), (6, 3, 15), (6, 9, 15)])
def test_pairs(count, rivals, number):
    pairs = pairs_of(count, rivals)
    assert len(pairs) == len(set(pairs)) == number
    assert all(a < b for a, b in pairs)
    if number == 12:
        assert {sum(row in pair for pair in pairs) for row in range(6)} == {4}


@pytest.mark.parametrize(("reply", "worth"), [("A", 1), ("B.", 0), ("**C**", 0.5), ("Not A. B", 0), ("because", None)])
def test_preference(reply, worth):
    if worth is None:
        with pytest.raises(CallError, match="neither A nor B nor C"):
            preference(reply)
    else:
        assert preference(reply) == worth


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "vie_prompts.py").write_text(VIE)
    return str(tmp_path / "vie_prompts.py")


@pytest.mark.parametrize(("combine", "expected"), [("geometric", 0.6), ("min", 0.4)])
def test_step1x_edit_s_template(judged, prompts, combine, expected):
    def answer(shades, text, body):
        if len(shades) == 2:
            assert text == "You are an artist.\nTwo images.\nRate: p5"
            return chat('{"score": [9, 10], "reasoning": ""}')
        assert text == "You are an artist.\nRate the picture."
        return chat('{"score": [4, 8], "reasoning": ""}')

    server, options = judged(answer)
    reward = VLMEditJudge(options, prompts, combine)
    assert reward.kinds == ("edit",)
    assert reward(of(5, kind="edit")).tolist() == [expected]
    assert sorted(shades_in(body)[0] for _, body in server.seen) == [[0, 5], [5]]


def test_half_an_answer_is_none(judged, prompts):
    _, options = judged(lambda shades, text, body: chat('{"score": [9, 9]}' if len(shades) == 2 else "fine"))
    assert VLMEditJudge(options, prompts)(of(5, kind="edit")).isnan().all()
    with pytest.raises(ValueError, match=r"prompts absent\.py does not exist: pass viescore/vie_prompts\.py"):
        VLMEditJudge(options, "absent.py").prepare()
    with pytest.raises(ValueError, match="needs its source"):
        VLMEditJudge(options, prompts)(of(5))


def test_a_result_is_judged_in_the_size_of_its_source(judged, prompts):
    sizes = []

    def answer(shades, text, body):
        images = body["messages"][0]["content"][1:]
        data = [base64.b64decode(image["image_url"]["url"].partition(",")[2]) for image in images]
        sizes.append([Image.open(io.BytesIO(png)).size for png in data])
        return chat('{"score": [9, 9]}')

    _, options = judged(answer)
    request = of(5, kind="edit")
    request.sources = torch.zeros(1, 12, 10, 3, dtype=torch.uint8)
    assert VLMEditJudge(options, prompts)(request).tolist() == [0.9]
    assert sorted(sizes) == [[(10, 12)], [(10, 12), (10, 12)]]


def test_a_served_model_reads(judged):
    server, options = judged(lambda shades, text, body: chat("OPEN 24 h" if shades[0] == 1 else "-"))
    reward = OcrReward(options)
    request = of(1, 2, 1)
    request.prompts = ['a sign "Open"'] * 3
    assert reward.waits
    assert reward(request).tolist() == [1, 0, 1]
    server.script = [400]
    assert reward(request).isnan().sum() == 1
