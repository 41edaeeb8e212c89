import pickle

import pytest

from unipic2_data.cache.records import RecordReader, RecordWriter, record_key
from unipic2_data.errors import DataError

HEADER = {"encoder": "abc", "dtype": "float32"}


def write(folder, **parts):
    writer = RecordWriter(folder, HEADER, "latents")
    for name, records in parts.items():
        with writer.part(name) as part:
            for key, data in records.items():
                part.add(record_key(key), data)
    assert writer.finish(parts)
    return RecordReader(folder, "latents")


def test_records_come_back_by_key(tmp_path):
    reader = write(tmp_path, b={"x": b"1", "y": b""}, a={f"k{n}": bytes([n]) * n for n in range(100)})
    assert len(reader) == 102
    assert reader.read(record_key("x"), "x") == b"1"
    assert reader.read(record_key("y"), "y") == b""
    assert all(reader.read(record_key(f"k{n}"), "k") == bytes([n]) * n for n in range(100))
    assert record_key("k100") not in reader
    assert reader.header["encoder"] == "abc"


def test_what_is_not_there_is_named(tmp_path):
    reader = write(tmp_path, a={"x": b"1"})
    with pytest.raises(DataError, match=r"sample 7: the cache .* has no latents for it; it is new, or its picture"):
        reader.read(record_key("z"), "sample 7")


def test_keys_with_the_same_first_half(tmp_path):
    writer = RecordWriter(tmp_path, HEADER, "latents")
    with writer.part("a") as part:
        for second in (3, 1, 2):
            part.add((5, second), bytes([second]))
    writer.finish(["a"])
    reader = RecordReader(tmp_path, "latents")
    assert [reader.read((5, second), "") for second in (1, 2, 3)] == [b"\1", b"\2", b"\3"]
    assert (5, 4) not in reader


def test_a_second_build_adds_and_an_open_reader_goes_on(tmp_path):
    before = write(tmp_path, b={"x": b"1"})
    after = write(tmp_path, a={"y": b"2"})
    assert [after.read(record_key(key), key) for key in "xy"] == [b"1", b"2"]
    assert before.read(record_key("x"), "x") == b"1"


def test_an_unfinished_build_is_not_read(tmp_path):
    writer = RecordWriter(tmp_path, HEADER, "latents")
    assert not writer.finish(["a"])
    with pytest.raises(DataError, match="are not finished"):
        RecordReader(tmp_path, "latents")
    with pytest.raises(DataError, match="are not there"):
        RecordReader(tmp_path / "other", "latents")


def test_a_part_that_fails_leaves_nothing(tmp_path):
    writer = RecordWriter(tmp_path, HEADER, "latents")
    with pytest.raises(TypeError), writer.part("a") as part:
        part.add(record_key("x"), None)
    assert not writer.has("a")
    assert not list((tmp_path / "parts").iterdir())


def test_another_encoder_is_refused(tmp_path):
    write(tmp_path, a={"x": b"1"})
    with pytest.raises(DataError, match=r"made differently \(encoder: abc there, xyz now\). Name another folder"):
        RecordWriter(tmp_path, HEADER | {"encoder": "xyz"}, "latents")


def test_a_part_that_is_cut_off_or_gone(tmp_path):
    reader = write(tmp_path, a={"x": b"12345"})
    (tmp_path / "parts" / "a.bin").write_bytes(b"12")
    with pytest.raises(DataError, match=r"a\.bin is cut off"):
        reader.read(record_key("x"), "x")
    (tmp_path / "parts" / "a.bin").unlink()
    with pytest.raises(DataError, match=r"cannot read .*a\.bin"):
        RecordReader(tmp_path, "latents").read(record_key("x"), "x")


def test_a_reader_goes_to_other_processes(tmp_path):
    reader = write(tmp_path, a={"x": b"1"})
    reader.read(record_key("x"), "x")
    sent = pickle.dumps(reader)
    assert len(sent) < 1000, "the index stays on disk"
    assert pickle.loads(sent).read(record_key("x"), "x") == b"1"
