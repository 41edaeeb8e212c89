import json
from pathlib import Path

import pytest

from unipic2_data.adapters.fields import Fields, refuse_urls
from unipic2_data.adapters.formats import default_mappers
from unipic2_data.adapters.places import FolderPlace
from unipic2_data.adapters.record import Record, Skipped
from unipic2_data.errors import DataError

HERE = FolderPlace(Path("images"))
EDIT = {"source": "a.jpg", "target": "b.jpg", "instruction": " make it snow "}
(EDITS,) = default_mappers("json")


def only(fields, row, place=HERE):
    (found,) = fields.records("row", row, place)
    return found


def test_edits_by_their_own_names():
    row = EDIT | {
        "task": "weather",
        "caption": "snow",
        "scores": {"sc": 9, "by": "me", "bad": float("nan"), "huge": 10**400, "yes": True},
        "private": 1,
    }
    assert only(EDITS, row) == Record(
        name="row",
        group="b.jpg",
        kind="edit",
        meta={"instruction": "make it snow", "task": "weather", "caption": "snow", "scores": {"sc": 9}},
        target=Path("images/b.jpg"),
        references=[Path("images/a.jpg")],
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instruction": "  "}, "empty instruction"),
        ({"instruction": None}, "field 'instruction' is missing or not a text"),
        ({"instruction": ["x", 3]}, "field 'instruction' is missing or not a text"),
        ({"source": None}, "no picture in field 'source'"),
        ({"source": []}, "no picture in field 'source'"),
        ({"target": ""}, "no picture in field 'target'"),
        ({"target": 7}, "no picture in field 'target'"),
        ({"target": ["b.jpg", "c.jpg"]}, "2 pictures in field 'target'"),
        ({"target": {"bytes": None, "path": None}}, "no picture in field 'target'"),
        ({"target": "https://example.org/b.jpg"}, "address instead of a picture in field 'target'"),
    ],
)
def test_bad_rows_are_skipped_by_reason(change, reason):
    assert only(EDITS, EDIT | change) == Skipped("row", reason)


def test_pictures_inside_rows():
    fields = Fields(target="image", references=("before", "more"), text=("text",))
    row = {"image": {"bytes": b"t", "path": "x.png"}, "before": b"r", "more": [b"s", {"bytes": b"u"}], "text": "x"}
    record = only(fields, row)
    assert (record.kind, record.target, record.references) == ("edit", b"t", [b"r", b"s", b"u"])
    assert record.group == "row"


def test_several_texts_without_repetition():
    fields = Fields(kind="t2i", target="image", text=("short", "long", "absent"))
    record = only(fields, {"image": b"i", "short": "a", "long": ["b", " a", ""]})
    assert record.meta == {"captions": ["a", "b"]}
    edit = Fields(kind="edit", target="image", references=("image",), text=("short", "long"))
    assert only(edit, {"image": b"i", "short": "a", "long": "b"}).meta == {"instruction": ["a", "b"]}


def test_kinds_by_what_a_row_has():
    fields = Fields(target="out", references=("in",), text=("text",))
    assert only(fields, {"out": b"o", "in": b"i", "text": "x"}).kind == "edit"
    assert only(fields, {"out": b"o", "text": "x"}).kind == "t2i"
    assert only(fields, {"text": "x"}).kind == "prompt"
    # A reference that is named and not there is a fault, not a picture without references.
    assert only(fields, {"out": b"o", "in": None, "text": "x"}) == Skipped("row", "no picture in field 'in'")


def test_questions_and_prompts():
    asked = Fields(kind="qa", references=("image",), text=("q",), answer="a")
    assert only(asked, {"image": b"i", "q": "what?", "a": " that "}).meta == {"question": "what?", "answer": "that"}
    assert only(asked, {"image": b"i", "q": "what?"}) == Skipped("row", "field 'a' is missing or not a text")
    prompt = Fields(kind="prompt", text=("prompt",), task="tag", metadata=("tag", "include", "absent"))
    record = only(prompt, {"prompt": "a cat", "tag": "single", "include": [{"class": "cat"}]})
    assert record.meta["metadata"] == {"tag": "single", "include": [{"class": "cat"}]}
    assert (record.kind, record.meta["task"], record.target) == ("prompt", "single", None)


def test_turns_are_samples_of_one_group():
    fields = Fields(kind="edit", target="out", references=("in",), text=("text",), turns="data")
    turn = {"out": ["o.png"], "in": ["i.png"], "text": "x"}
    found = list(fields.records("row", {"data": [turn, turn | {"text": ""}, turn]}, HERE))
    assert [one.name for one in found] == ["row.1", "row.2", "row.3"]
    assert found[1] == Skipped("row.2", "empty instruction")
    assert {one.group for one in (found[0], found[2])} == {"row"}
    assert [found[0].meta["turn"], found[2].meta["turn"]] == [1, 3]
    assert only(fields, {"data": "no"}) == Skipped("row", "no turns in field 'data'")
    assert only(fields, {"data": ["no"]}) == Skipped("row", "no turns in field 'data'")


def test_groups_and_known_defects():
    fields = Fields(kind="t2i", target="image", text=("text",), group="scene", skip={"image": r"bad/20[89]"})
    assert only(fields, {"image": "a.png", "text": "x", "scene": 7}).group == "7"
    assert only(fields, {"image": "bad/208/a.png", "text": "x"}) == Skipped("row", "known defect in field 'image'")


def test_fields_of_a_file_that_a_row_names(tmp_path, files):
    fields = Fields(kind="t2i", target="image", text=("caption",), annotation="file", annotation_folder="../texts")
    place = FolderPlace(tmp_path / "images")
    (tmp_path / "images").mkdir()
    files.write(tmp_path / "texts" / "1.json", json.dumps({"caption": "from the file"}))
    row = {"image": "1.jpg", "file": "1.json"}
    assert fields.applies(row)
    assert only(fields, row, place).meta == {"captions": ["from the file"]}
    files.write(tmp_path / "texts" / "2.json", "[")
    assert only(fields, row | {"file": "2.json"}, place) == Skipped("row", "file in field 'file' is not a JSON object")
    assert only(fields, row | {"file": "3.json"}, place) == Skipped("row", "file in field 'file': file is missing")


def test_metadata_is_json():
    fields = Fields(kind="prompt", text=("text",), metadata=("when",))
    assert only(fields, {"text": "x", "when": {"path": Path("a")}}).meta["metadata"] == {"when": {"path": "a"}}


@pytest.mark.parametrize("value", ["https://example.org/1.jpg", ["s3://bucket/1.jpg"]])
def test_addresses_are_refused_with_the_tool_that_fetches_them(value):
    with pytest.raises(DataError, match=r"rows\.parquet lists addresses of pictures \(field 'url'\).*img2dataset"):
        refuse_urls("rows.parquet", {"caption": "x", "url": value})
    refuse_urls("rows.parquet", {"caption": "see www.example.org", "image": "a/b.jpg"})
