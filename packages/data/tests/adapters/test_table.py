from pathlib import Path

import pytest

from unipic2_data.adapters.fields import Fields
from unipic2_data.adapters.formats import guess_format, open_source
from unipic2_data.adapters.record import Record, Skipped
from unipic2_data.errors import DataError

PICTURES = Fields(kind="t2i", target="image", text=("caption",))


def read(source, format="json", mappers=(PICTURES,), **options):
    adapter, damages = open_source(source, format, mappers, index=source.parent / "index", **options)
    assert damages == []
    return [found for part in adapter.parts() for found in adapter.read(part)]


def test_all_files_of_a_folder(tmp_path, files):
    files.lines(tmp_path / "in" / "b" / "1.jsonl", [{"image": "1.jpg", "caption": "one"}])
    files.lines(tmp_path / "in" / "a.json", [{"image": "2.jpg", "caption": "two"}])
    files.lines(tmp_path / "in" / ".cache" / "3.jsonl", [{"image": "3.jpg", "caption": "hidden"}])
    found = read(tmp_path / "in")
    assert [(one.name, one.target) for one in found] == [
        ("a.json:1", tmp_path / "in" / "2.jpg"),
        ("b/1.jsonl:1", tmp_path / "in" / "1.jpg"),
    ]
    (elsewhere, _) = read(tmp_path / "in", image_root=tmp_path / "pictures")
    assert elsewhere.target == tmp_path / "pictures" / "2.jpg"


def test_a_row_may_become_several_records(tmp_path, files):
    back = Fields(kind="edit", target="before", references=("after",), text=("undo",))
    forth = Fields(kind="edit", target="after", references=("before",), text=("do",))
    row = {"before": "b.jpg", "after": "a.jpg", "do": "x", "undo": "y"}
    found = read(files.lines(tmp_path / "a.jsonl", [row, {"do": "x"}]), mappers=(forth, back))
    assert [one.name for one in found] == ["a.jsonl:1", "a.jsonl:1+1", "a.jsonl:2"]
    assert [one.meta["instruction"] for one in found[:2]] == ["x", "y"]
    assert found[2] == Skipped("a.jsonl:2", "fields missing: after, before, undo")


def test_one_row_of_another_layout_is_skipped(tmp_path, files):
    rows = [{"url": "x"}, {"image": "1.jpg", "caption": "x"}]
    found = read(files.lines(tmp_path / "a.jsonl", rows))
    assert found[0] == Skipped("a.jsonl:1", "fields missing: caption, image")
    assert isinstance(found[1], Record)


def test_another_layout_is_named_at_once(tmp_path, files):
    file = files.lines(tmp_path / "a.jsonl", [{"img": "1.jpg", "text": "one"}])
    with pytest.raises(DataError, match=r"have the fields img, text; expected caption, image.*--fields"):
        read(file)


@pytest.mark.parametrize(
    "rows", [[{"url": "https://example.org/1.jpg", "caption": "x"}], [{"image": "http://x/1.jpg", "caption": "x"}]]
)
def test_lists_of_addresses_are_refused(tmp_path, files, rows):
    with pytest.raises(DataError, match="img2dataset"):
        read(files.lines(tmp_path / "a.jsonl", rows))
    with pytest.raises(DataError, match="img2dataset"):
        read(files.parquet(tmp_path / "a.parquet", rows), "parquet")


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("a.txt", "\nhttps://example.org/1.jpg\nhttps://example.org/2.jpg\n", "url"),
        ("a.csv", 'caption,address\na cat,"https://example.org/1.jpg"\n', "address"),
        ("a.tsv", "TEXT\tURL\na cat\thttps://example.org/1.jpg\n", "URL"),
        ("a.csv", "a cat,https://example.org/1.jpg\n", "url"),
    ],
)
@pytest.mark.parametrize("format", ["folder", "json"])
def test_lists_of_addresses_in_lines_and_columns_are_refused(tmp_path, files, name, text, field, format):
    with pytest.raises(DataError, match=rf"lists addresses of pictures \(field '{field}'\).*img2dataset"):
        read(files.write(tmp_path / name, text), format)


def test_an_address_is_refused():
    with pytest.raises(DataError, match=r"is an address.*img2dataset"):
        read(Path("https://example.org/data.parquet"), "parquet")


def test_other_lists_are_no_addresses(tmp_path, files):
    prompts = Fields(kind="prompt", text=("text",))
    found = read(files.write(tmp_path / "a.txt", "a cat, https\nhttp:// is how addresses begin\n"), mappers=(prompts,))
    assert [one.meta["captions"] for one in found] == [["a cat, https"], ["http:// is how addresses begin"]]
    for name in ("a.csv", "empty.csv"):
        with pytest.raises(DataError, match="expected a folder of pictures"):
            read(files.write(tmp_path / name, "" if name == "empty.csv" else "file,text\n1.jpg,a cat\n"), "folder")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "json"),
        ("a.json", "json"),
        ("a.parquet", "parquet"),
        ("a.tar", "tar"),
        ("a.txt", "folder"),
        ("", "folder"),
    ],
)
def test_the_format_of_a_file_is_guessed_by_its_suffix(tmp_path, name, format):
    assert guess_format(tmp_path / name) == format


def test_pictures_in_tars(tmp_path, files):
    files.tar(tmp_path / "tars" / "x.tar", {"x/1.jpg": b"i"})
    file = files.lines(tmp_path / "a.jsonl", [{"image": name, "caption": "x"} for name in ("x/1.jpg", "x/2.jpg")])
    found = read(file, "index", image_tars=tmp_path / "tars")
    assert isinstance(found[0], Record)
    assert found[1] == Skipped("a.jsonl:2", "picture is missing")


def test_no_source(tmp_path):
    with pytest.raises(DataError, match="it does not exist"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match=r"expected a file \.parquet, or a folder with some"):
        read(tmp_path, "parquet")
