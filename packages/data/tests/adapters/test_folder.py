import json

import pytest

from unipic2_data.adapters.fields import Fields
from unipic2_data.adapters.folder import FolderSource
from unipic2_data.adapters.formats import default_mappers
from unipic2_data.adapters.record import Record, Skipped
from unipic2_data.errors import DataError


def read(folder):
    source = FolderSource(folder, default_mappers("folder"))
    return [found for part in source.parts() for found in source.read(part)]


def fill(folder):
    (folder / "deep").mkdir()
    (folder / ".hidden").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/c.webp", "mute.jpg", "blank.jpg", "latin.jpg", ".hidden/d.jpg", "notes.pdf"):
        (folder / name).write_bytes(b"")
    (folder / "b.txt").write_text("one\n\n  two  \r\nthree")
    (folder / "a.txt").write_text("\ufeffwith a byte order mark", encoding="utf-8")
    (folder / "deep" / "c.txt").write_text("deep")
    (folder / "blank.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (folder / "alone.txt").write_text("nobody")


def test_reads_pictures_with_captions_beside_them(tmp_path):
    fill(tmp_path)
    found = read(tmp_path)
    records = {one.name: one for one in found if isinstance(one, Record)}
    assert {name: record.meta["captions"] for name, record in records.items()} == {
        "a.PNG": ["with a byte order mark"],
        "b.jpg": ["one", "two", "three"],
        "deep/c.webp": ["deep"],
    }
    assert {record.kind for record in records.values()} == {"t2i"}
    assert records["deep/c.webp"].target == tmp_path / "deep" / "c.webp"
    assert [one for one in found if isinstance(one, Skipped)] == [
        Skipped("blank.jpg", "empty caption"),
        Skipped("latin.jpg", "caption is not UTF-8"),
        Skipped("mute.jpg", "no caption file beside it"),
        Skipped("alone.txt", "caption without a picture"),
    ]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_change_nothing(tmp_path, monkeypatch, size):
    fill(tmp_path)
    whole = read(tmp_path)
    monkeypatch.setattr("unipic2_data.adapters.folder._PART_FILES", size)
    assert read(tmp_path) == whole


def test_pictures_that_edits_use_need_no_caption(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.txt").write_text("captioned as well")
    edit = {"source": "a.jpg", "target": "b.jpg", "instruction": "x"}
    (tmp_path / "edits.jsonl").write_text(json.dumps(edit))
    found = read(tmp_path)
    assert [one.name for one in found] == ["edits.jsonl:1", "a.jpg", "c.jpg"]
    assert found[2] == Skipped("c.jpg", "no caption file beside it")


def test_a_folder_in_place_of_a_caption(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "a.txt").mkdir()
    assert read(tmp_path) == [Skipped("a.jpg", "caption cannot be opened")]


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="expected a folder of pictures"):
        FolderSource(tmp_path / "absent", [Fields()])
