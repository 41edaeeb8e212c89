"""Rows and pictures of three kinds of files."""

import base64
import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from unipic2_evals.pictures import Embedded, Picture, Request
from unipic2_evals.tables import is_absent, picture_of, table_rows


def _png(value):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_same_rows_from_all_formats(tmp_path):
    rows = [{"index": "1", "text": 'a "quoted"\ttab'}, {"index": "2", "text": "\u85cd\nnew line"}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.tsv").write_text('index\ttext\n1\t"a ""quoted""\ttab"\n2\t"\u85cd\nnew line"\n', encoding="utf-8")
    assert [dict(row) for _, row in table_rows(tmp_path / "r.jsonl")] == rows
    found = table_rows(tmp_path / "r.tsv")
    assert [dict(row) for _, row in found] == rows
    assert found[0][0].endswith("r.tsv, line 2")


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": _png(7), "path": None}, None]
    parquet.write_table(pa.table({"id": ["a", "b"], "image_1": images}), tmp_path / "r.parquet")
    (name, row), (_, other) = table_rows(tmp_path / "r.parquet")
    assert [row for _, row in table_rows(tmp_path, ["id"])] == [{"id": "a"}, {"id": "b"}]
    with pytest.raises(ValueError, match=r"no columns \['x'\] among \['id', 'image_1'\]"):
        table_rows(tmp_path, ["id", "x"])
    assert name.endswith("r.parquet, row 1")
    assert picture_of(row["image_1"], tmp_path, "x").pixels()[0, 0, 0] == 7
    assert is_absent(other["image_1"])


def test_large_cells(tmp_path):
    (tmp_path / "r.tsv").write_text("index\timage\n1\t" + "A" * 300_000 + "\n")
    limit = csv.field_size_limit()
    assert len(table_rows(tmp_path / "r.tsv")[0][1]["image"]) == 300_000
    assert csv.field_size_limit() == limit  # other readers of this process keep theirs


def test_pictures_of_all_kinds(tmp_path):
    data = _png(9)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/p.png").write_bytes(data)
    cells = [data, {"bytes": data, "path": "x"}, base64.b64encode(data).decode(), "images/p.png"]
    found = [picture_of(cell, tmp_path, "x") for cell in cells]
    assert [type(picture) for picture in found] == [Embedded, Embedded, Embedded, Picture]
    assert all((picture.pixels() == np.array([9, 0, 0])).all() for picture in found)
    assert len({Request("reply", (picture,)).key() for picture in found}) == 1  # content, not place


@pytest.mark.parametrize("cell", ["images/none.png", 3, None, {"path": "x"}, "not base64!"])
def test_what_is_no_picture_is_refused(cell, tmp_path):
    with pytest.raises(ValueError, match="image of row 1: expected a picture as bytes, base64 or a path below"):
        picture_of(cell, tmp_path, "image of row 1")


def test_broken_bytes_are_refused():
    with pytest.raises(ValueError, match="a picture of 5 bytes can not be read"):
        Embedded(b"no pi").pixels()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.csv", "a", r"expected a file that ends in one of \.tsv, \.jsonl, \.parquet"),
        ("r.tsv", "a\tb\n", "expected rows, found none"),
        ("r.tsv", "a\tb\n1\n", "line 2: expected 2 cells"),
        ("r.tsv", "a\tb\n1\t2\t3\n", "line 2: expected 2 cells"),
    ],
)
def test_malformed_files_are_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        table_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "absent"), [(None, True), ("", True), (float("nan"), True), ("0", False), (0, False)]
)
def test_absent_cells(value, absent):
    assert is_absent(value) is absent
