import json
import pickle

import numpy as np
import pytest

from unipic2_data.adapters.record import Skipped
from unipic2_data.adapters.rows import read_rows, row_parts
from unipic2_data.errors import DataError

ROWS = [{"n": number, "text": 'brackets ]}{[ and "quotes" \\ ' + "\u00e9" * number} for number in range(11)]


@pytest.fixture(params=[1, 3, 4096])
def part_rows(request, monkeypatch):
    monkeypatch.setattr("unipic2_data.adapters.rows._PART_ROWS", request.param)
    return request.param


def read(file, columns=("n", "text"), **options):
    return [
        row
        for part in row_parts(file, 0)
        for row in read_rows(file, "f", pickle.loads(pickle.dumps(part)), columns, **options)
    ]


def as_lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", as_lines(ROWS)),
        ("a.jsonl", as_lines(ROWS) + "\n"),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2, ensure_ascii=False)),
        ("a.json", "\ufeff " + json.dumps(ROWS)),
        ("a.json", as_lines(ROWS)),  # JSON lines under the wrong name
    ],
)
def test_rows_in_any_parts(tmp_path, part_rows, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read(tmp_path / name) == [(f"f:{number}", row) for number, row in enumerate(ROWS, 1)]
    assert len(row_parts(tmp_path / name, 0)) == -(-len(ROWS) // part_rows)


def test_blank_lines_are_left_out_and_counted(tmp_path, part_rows):
    (tmp_path / "a.jsonl").write_text('\n{"n": 1}\r\n\n{"n": 2}\n')
    assert read(tmp_path / "a.jsonl") == [("f:2", {"n": 1}), ("f:4", {"n": 2})]


def test_lines_of_text(tmp_path, part_rows):
    (tmp_path / "a.txt").write_bytes("one\ntwo \u00e9\n\n".encode() + b"\xff\n")
    assert read(tmp_path / "a.txt") == [
        ("f:1", {"text": "one"}),
        ("f:2", {"text": "two \u00e9"}),
        Skipped("f:4", "line is not UTF-8"),
    ]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'"x"', b"[" * 100_000, b"\0"])
def test_bad_lines_are_skipped_by_reason(tmp_path, part_rows, line):
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n' + line + b'\n{"n": 2}\n')
    skipped = Skipped("f:2", "line is not a JSON object")
    assert read(tmp_path / "a.jsonl") == [("f:1", {"n": 1}), skipped, ("f:3", {"n": 2})]


def test_lines_that_are_not_utf8(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"n": "\xff"}')
    assert read(tmp_path / "a.jsonl") == [Skipped("f:1", "line is not UTF-8")]


@pytest.mark.parametrize("damage", ['{"n": }', "{]}", '{"n": "\\x"}'])
def test_a_bad_object_in_a_list_hides_no_others(tmp_path, part_rows, damage):
    (tmp_path / "a.json").write_text('[{"n": 1}, ' + damage + ', {"n": [{"m": 2}]}]')
    rows = [row for row in read(tmp_path / "a.json") if not isinstance(row, Skipped)]
    assert [row[1] for row in rows] == [{"n": 1}, {"n": [{"m": 2}]}]


def test_a_list_that_is_cut_off(tmp_path, part_rows):
    (tmp_path / "a.json").write_text(json.dumps(ROWS)[:-8])
    found = read(tmp_path / "a.json")
    assert [row[1] for row in found[:-1]] == ROWS[:-1]
    assert found[-1] == Skipped("f:11", "line is not a JSON object")


def test_no_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert row_parts(tmp_path / "a.jsonl", 0) == []
    (tmp_path / "a.json").write_text("hello")
    with pytest.raises(DataError, match=r"a\.json is not a list of JSON objects"):
        row_parts(tmp_path / "a.json", 0)
    with pytest.raises(DataError, match=r"cannot read .*absent\.jsonl"):
        row_parts(tmp_path / "absent.jsonl", 0)


def test_parquet(tmp_path, files, monkeypatch):
    rows = [row | {"image": {"bytes": bytes([row["n"]]), "path": None}, "unwanted": 1} for row in ROWS]
    file = files.parquet(tmp_path / "a.parquet", rows)
    wanted = [{key: row[key] for key in ("n", "image")} for row in rows]
    assert read(file, ("n", "image")) == [(f"f:{number}", row) for number, row in enumerate(wanted, 1)]
    monkeypatch.setattr("unipic2_data.adapters.rows._PART_ROWS", 4)
    assert len(row_parts(file, 0)) == 3
    assert read(file, ("n", "image")) == [(f"f:{number}", row) for number, row in enumerate(wanted, 1)]
    monkeypatch.setattr("unipic2_data.adapters.rows._PART_BYTES", 1)
    assert len(row_parts(file, 0)) == 6
    without = read(file, ("n", "image", "absent"), pictures=False)
    assert without[10] == ("f:11", {"n": 10, "image": b"\0"})
    assert read(file, ("image",), pictures=False)[3] == ("f:4", {"image": b"\0"})


def test_lists_of_pictures_are_not_read_for_names(tmp_path, files):
    file = files.parquet(tmp_path / "a.parquet", [{"images": [{"bytes": b"x", "path": "p"}], "names": ["n"]}])
    assert read(file, ("images", "names"), pictures=False) == [("f:1", {"images": b"\0", "names": ["n"]})]


def test_parquet_of_another_layout(tmp_path, files):
    file = files.parquet(tmp_path / "a.parquet", ROWS)
    with pytest.raises(DataError, match=r"a\.parquet has none of the fields image, prompt; it has n, text"):
        read(file, ("prompt", "image"))


def test_damaged_parquet(tmp_path, files):
    rows = [{"n": number, "image": np.random.default_rng(number).bytes(4000)} for number in range(6)]
    data = files.parquet(tmp_path / "a.parquet", rows).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-100])
    with pytest.raises(DataError, match=r"cut\.parquet is not a readable Parquet file"):
        row_parts(tmp_path / "cut.parquet", 0)
    middle = data.index(rows[2]["image"][:16])
    (tmp_path / "holed.parquet").write_bytes(data[: middle - 30] + bytes(30) + data[middle:])
    found = read(tmp_path / "holed.parquet", ("n", "image"))
    assert found[:2] == [("f:1", rows[0]), ("f:2", rows[1])]
    assert found[2] == Skipped("f:3-4", "rows of Parquet are unreadable")
    assert found[3:] == [("f:5", rows[4]), ("f:6", rows[5])]
