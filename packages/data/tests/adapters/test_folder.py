from unipic2_data.adapters.folder import read_folder
from unipic2_data.adapters.record import Record, Skipped


def test_reads_pictures_with_captions_beside_them(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.jpg", "a.PNG", "deep/c.webp", "mute.jpg", "blank.jpg", "latin.jpg", ".hidden/d.jpg", "notes.pdf"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b.txt").write_text("one\n\n  two  \r\nthree")
    (tmp_path / "a.txt").write_text("\ufeffwith a byte order mark", encoding="utf-8")
    (tmp_path / "deep" / "c.txt").write_text("deep")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "alone.txt").write_text("nobody")
    found = list(read_folder(tmp_path))
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


def test_pictures_that_edits_use_need_no_caption(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert list(read_folder(tmp_path, frozenset({(tmp_path / "a.jpg").resolve()}))) == []
