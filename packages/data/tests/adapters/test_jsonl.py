import json

import pytest

from unipic2_data.adapters.jsonl import read_jsonl
from unipic2_data.adapters.record import Record, Skipped

GOOD = {"source": "a.jpg", "target": "b.jpg", "instruction": " make it snow "}


def read(tmp_path, *lines):
    file = tmp_path / "edits.jsonl"
    file.write_bytes(b"\n".join(lines))
    return list(read_jsonl(file, tmp_path / "images"))


def test_reads_edits(tmp_path):
    line = json.dumps(GOOD | {"task": "weather", "caption": "snow", "private": 1}).encode()
    (record,) = read(tmp_path, b"", line, b"")
    assert record == Record(
        name="edits.jsonl:2",
        group="b.jpg",
        kind="edit",
        meta={"instruction": "make it snow", "task": "weather", "caption": "snow"},
        target=tmp_path / "images" / "b.jpg",
        references=[tmp_path / "images" / "a.jpg"],
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line is not a JSON object"),
        (b"[1]", "line is not a JSON object"),
        (b'{"a": "\xff"}', "line is not UTF-8"),
        (json.dumps(GOOD | {"instruction": "  "}).encode(), "empty instruction"),
        (json.dumps(GOOD | {"source": None}).encode(), "field 'source' is missing or not a text"),
        (json.dumps(GOOD | {"target": ""}).encode(), "field 'target' is empty"),
    ],
)
def test_bad_lines_are_skipped_by_reason(tmp_path, line, reason):
    good = json.dumps(GOOD).encode()
    found = read(tmp_path, good, line, good)
    assert found[1] == Skipped("edits.jsonl:2", reason)
    assert isinstance(found[2], Record)
