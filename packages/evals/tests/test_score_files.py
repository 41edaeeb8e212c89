"""What is written is read again, and says on every row whose judgement it is."""

import json
import math

import pytest

from unipic2_evals.score_files import read_report, score_table, write_report


@pytest.fixture
def report(tmp_path):
    row = {"missing": 1, "unanswered": 0, "failed": 2, "judge": "j|1", "revision": "r", "official": True}
    scores = [
        {"name": "a", "value": 0.5, "low": 0.25, "high": 0.75, "total": 8, **row, "quirks": ["q"]},
        {"name": "b", "value": math.nan, "low": 0.0, "high": 1.0, "total": 1, **row, "quirks": []},
    ]
    item = {"key": "k", "prompt": "p", "cluster": "c", "group": "g", "reason": "why", "values": {"v": 1.0}}
    image = tmp_path / "out" / "k.png"
    return {
        **{
            "format": 1,
            "bench": "x",
            "judge": "j|1",
            "revision": "r",
            "answered_by": "j|1 (r)",
            "official": True,
            "quirks": ["q"],
        },
        **{"settings": {"samples": 4}, "missing_policy": "drop", "failed_policy": "drop", "binary": True},
        **{"counts": {"expected": 3}, "scores": scores, "measures": [["a", "v", None, False]]},
        "items": [{**item, "status": "failed", "images": [str(image)]}],
    }


def test_round_trip(report, tmp_path):
    paths = write_report(report, tmp_path / "scores")
    assert [path.name for path in paths[:2]] == ["scores.json", "scores.md"]
    written = json.loads(paths[0].read_text(), parse_constant=pytest.fail)
    assert written["items"][0]["images"] == ["../out/k.png"]
    again = read_report(tmp_path / "scores")
    assert again["items"][0]["images"] == [str(tmp_path / "scores" / "../out/k.png")]
    assert again["scores"][0] == report["scores"][0]
    assert again["scores"][1]["value"] is None


def test_markdown(report, tmp_path):
    text = write_report(report, tmp_path)[1].read_text()
    lines = score_table(report).splitlines()
    assert [cell.strip() for cell in lines[2].split(" | ")][1:] == [
        *("0.500 [0.250, 0.750]", "8", "1", "0", "2", "j\\|1 (r)", "True"),
        "q |",
    ]
    assert "no score: a group has no items" in lines[3]
    assert lines[2] in text
    assert "- failed: k: why" in text
    assert "missing images: drop" in text


def test_plot(report, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    report["scores"].pop()
    path = write_report(report, tmp_path)[2]
    with Image.open(path) as image:
        assert image.size[0] > 400


def test_foreign_file_is_refused(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match=r"scores\.json: expected what `unipic2-evals score` writes, format 1"):
        read_report(tmp_path)
