"""DPG's folder: tiles are cut, questions asked, the graph applied, the skipped row felt."""

import numpy as np
import pytest
from PIL import Image

from unipic2_evals.runs import Options
from unipic2_evals.runs.dpg import DPGRun

CSV = """item_id,text,proposition_id,dependency,tuple,question_natural_language
first,a,1,0,entity - whole (dog),Is there a dog?
first,a,2,1,"attribute - color (dog, red)",Is the dog red?
second,b,1,0,entity - whole (cat),Is there a cat?
second,b,2,1,"attribute - color (cat, blue)",Is the cat blue?
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "dpg.csv").write_text(CSV)
    folder = tmp_path / "out"
    folder.mkdir()
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:4, 4:] = 255  # the top right tile
    for name in ("first", "second"):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return lambda official=True, samples=None: DPGRun(
        folder, Options(official, data=tmp_path / "dpg.csv", samples=samples)
    )


def test_tiles_in_order(run):
    second = run().items()[1]
    assert [request.text for request in second.requests[:2]] == ["Is there a cat?", "Is the cat blue?"]
    means = [request.pictures[0].pixels().mean() for request in second.requests[::2]]
    assert means == [0, 255, 0, 0]


def test_scores_after_parents(run):
    official = run()
    first, second = official.items()
    answers = ["yes", "yes", "yes", "no", "no", "yes", "no", "no"]
    scored = official.score(second, answers)
    assert scored.values["dpg"] == 37.5
    assert scored.values["L1 attribute"] == [0.0]
    dropped = official.score(first, ["yes"] * 4)  # its question 1 was in the skipped row
    assert "KeyError" in dropped.failed
    assert dropped.record is None
    mended = run(official=False)
    assert mended.score(mended.items()[0], ["Yes."] * 8).values["dpg"] == 100


def test_summary_agrees_with_the_scorer(run):
    mended = run(official=False)
    items = mended.items()
    replies = [["yes"] * 8, ["yes", "no"] * 4]
    scored = {item.key: mended.score(item, answers) for item, answers in zip(items, replies, strict=True)}
    summary = mended.official_values({key: entry.record for key, entry in scored.items()})
    assert summary["dpg"] == 75
    assert summary["L2 attribute - color"] == 50
    assert {measure.name for measure in mended.measures(items)} == set(summary)


def test_missing_and_malformed_pictures(run, tmp_path):
    (tmp_path / "out/second.png").unlink()
    assert run().items()[1].missing == "no second.png"
    Image.new("RGB", (8, 6)).save(tmp_path / "out/second.png")
    with pytest.raises(ValueError, match=r"second\.png: expected a square picture of 2 x 2 tiles, got 8 x 6"):
        run().items()


def test_one_tile(run):
    item = run(samples=1).items()[1]
    assert len(item.requests) == 2
    assert item.requests[0].pictures[0].crop == (0, 0, 8, 8)


def test_questions_are_needed(tmp_path):
    with pytest.raises(ValueError, match=r"--data is missing: the path of dpg_bench\.csv"):
        DPGRun(tmp_path, Options())
