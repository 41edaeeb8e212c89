"""ImgEdit's folder: the judge's prompt by edit type, three Overalls, failures."""

import json

import pytest
from PIL import Image

from unipic2_evals.runs import Options
from unipic2_evals.runs.imgedit import ImgEditRun

META = {
    "1": {"id": "animal/1.jpg", "prompt": "remove the cat", "edit_type": "remove"},
    "2": {"id": "animal/1.jpg", "prompt": "paint it", "edit_type": "style"},
    "3": {"id": "animal/1.jpg", "prompt": "remove all", "edit_type": "remove"},
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "basic_edit.json").write_text(json.dumps(META))
    (tmp_path / "prompts.json").write_text(json.dumps({"remove": "Removed? <edit_prompt>", "style": "<edit_prompt>?"}))
    (tmp_path / "sources/animal").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "sources/animal/1.jpg")
    (tmp_path / "out").mkdir()
    for key in ("1", "2"):
        Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / f"out/{key}.png")
    options = Options(True, tmp_path / "basic_edit.json", tmp_path / "sources", tmp_path / "prompts.json")
    return lambda official=True: ImgEditRun(tmp_path / "out", options._replace(official=official))


def test_items(run, tmp_path):
    first, _, third = run().items()
    assert first.requests[0].text == "Removed? remove the cat"
    assert first.images == (tmp_path / "sources/animal/1.jpg", tmp_path / "out/1.png")
    assert third.missing == "no 3.png"


def test_scores_and_overalls(run):
    first, second, third = run().items()
    official = run()
    scored = official.score(first, ["Prompt Compliance: 4\nNaturalness: 5\nDetail: 3"])
    assert scored.values["score"] == 4
    records = {"1": scored.record, "2": 2.0, "3": official.zero(third).record}
    assert official.official_values(records) == {"remove": 2.0, "style": 2.0, "macro": 2.0, "sample_mean": 2.0}
    failed = official.score(second, ["a fine picture"])
    assert failed.failed
    assert failed.values == {"score, failures zero": 0.0}
    assert run(official=False).score(first, ["A: 3/5\nB: 5\nC: 2"]).values["score"] == pytest.approx(8 / 3)


def test_missing_source_is_an_error(run, tmp_path):
    (tmp_path / "sources/animal/1.jpg").unlink()
    with pytest.raises(ValueError, match="the source image of '1' is missing; is --sources"):
        run().items()
