"""GEditBench v2's layout: what is written is read again, and a model joins the gallery's metadata."""

import json

import pytest

from unipic2_evals import gedit2

ROWS = [
    {"key": f"subject_add_00000{number}", "instruction": "add a \u85cd cup", "source_image": f"src/{number}.png"}
    for number in range(3)
]


def _lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "gallery"
    (folder / "ours").mkdir(parents=True)
    others = [{"model": "BAGEL", "image": "BAGEL/x.png"}]
    _lines(folder / "metadata.jsonl", [{**row, "candidates": others} for row in ROWS])
    for row in ROWS[:2]:
        (folder / gedit2.output_path("ours", row["key"])["edited"]).write_bytes(b"png")
    return folder


@pytest.fixture
def items(tmp_path):
    _lines(tmp_path / "metadata.jsonl", ROWS)
    return gedit2.read_items(tmp_path)


def test_items(items, tmp_path):
    assert items[1] == ("subject_add_000001", "add a \u85cd cup", tmp_path / "src/1.png")


def test_results_list_the_images_that_exist(gallery, items):
    path = gedit2.write_results(gallery, "ours", items)
    assert path == gallery / "ours_generation_results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(row) for row in rows] == [["key", "image_path", "instruction"]] * 2
    images = gedit2.read_results(path)
    assert images == {row["key"]: gallery / f"ours/{row['key']}.png" for row in ROWS[:2]}


def test_model_joins_the_candidates_once(gallery, items):
    images = gedit2.read_results(gedit2.write_results(gallery, "ours", items))
    merged = gallery / "metadata_20260101_000000.jsonl"
    gedit2.merge_candidates(gallery / "metadata.jsonl", merged, "ours", images)
    gedit2.merge_candidates(merged, merged, "ours", images)
    rows = [json.loads(line) for line in merged.read_text().splitlines()]
    assert [row["key"] for row in rows] == [row["key"] for row in ROWS]
    own = {"model": "ours", "image": "ours/subject_add_000000.png"}
    assert rows[0]["candidates"] == [{"model": "BAGEL", "image": "BAGEL/x.png"}, own]
    assert len(rows[2]["candidates"]) == 1  # no image of ours


def test_no_images_are_refused(gallery, items):
    with pytest.raises(ValueError, match="none of 3 images is there"):
        gedit2.write_results(gallery, "theirs", items)


def test_images_of_other_items_are_refused(gallery):
    with pytest.raises(ValueError, match=r"no items \['x'\]"):
        gedit2.merge_candidates(gallery / "metadata.jsonl", gallery / "m.jsonl", "ours", {"x": gallery / "x.png"})


@pytest.mark.parametrize("model", ["a_vs_b", "a_pair_b", "org/name", ""])
def test_unusable_model_names_are_refused(model):
    with pytest.raises(ValueError, match="model: "):
        gedit2.output_path(model, "key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: no JSON"),
        ('{"key": "a"}', "no 'instruction' among its fields"),
        ('{"key": "../a"}', "key in .*: expected the name of one file"),
        ('\n{"key": "a"}\n{"key": "a"}', "line 3: key 'a' occurs twice"),
        ("[]", "line 1: expected a mapping, got list"),
    ],
)
def test_malformed_metadata_is_refused(text, message, tmp_path):
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        gedit2.read_items(tmp_path)
