import json
import pickle

import pytest

from unipic2_data.errors import DataError
from unipic2_data.notes import Notes, append_notes, write_note


def fill(file, *notes):
    with append_notes(file) as opened:
        for note in notes:
            write_note(opened, note)
    return file


def test_notes_by_key_and_data_set(tmp_path):
    a = fill(tmp_path / "a.jsonl", {"data": "1", "key": "k", "x": 1}, {"data": "2", "key": "k", "x": 2}, {"key": "l"})
    b = fill(tmp_path / "deep" / "b.jsonl", {"key": "k", "x": 3}, {"key": "\u00e9", "x": 4})
    notes = pickle.loads(pickle.dumps(Notes([a, b])))
    assert [note["x"] for note in notes.of("1", "k")] == [1, 3]
    assert [note["x"] for note in notes.of("2", "k")] == [2, 3]
    assert notes.of("1", "\u00e9")[0]["x"] == 4
    assert notes.of("1", "m") == []
    assert len(notes) == 5
    assert Notes([]).of("1", "k") == []


@pytest.mark.parametrize("tail", ["", '{"key": "m"', '{"key": "m", "x": "' + "y" * 200_000])
def test_a_line_that_was_cut_off_is_left_out_and_removed(tmp_path, tail):
    file = fill(tmp_path / "a.jsonl", {"key": "k"}, {"key": "l"})
    with file.open("a") as opened:
        opened.write(tail)
    assert len(Notes([file])) == 2
    fill(file, {"key": "n"})
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == ["k", "l", "n"]


def test_a_file_that_is_one_cut_off_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"key": "k')
    fill(tmp_path / "a.jsonl", {"key": "l"})
    assert (tmp_path / "a.jsonl").read_text() == '{"key": "l"}\n'


@pytest.mark.parametrize("line", ["hello", "[1]", '{"x": 1}', '{"key": 3}', "[" * 100_000])
def test_bad_lines_are_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{{"key": "k"}}\n{line}\n{{"key": "l"}}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2 is no note"):
        Notes([tmp_path / "a.jsonl"])
    with pytest.raises(DataError, match="cannot read"):
        Notes([tmp_path / "absent.jsonl"])
