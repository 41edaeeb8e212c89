import json

import pytest

from unipic2_data.adapters.fields import Fields
from unipic2_data.adapters.formats import default_mappers
from unipic2_data.adapters.record import Member, Record, Skipped, read_picture
from unipic2_data.adapters.tar import TarSource
from unipic2_data.errors import DataError


def read(place, *mappers):
    source = TarSource(place, mappers or default_mappers("tar"))
    return [found for part in source.parts() for found in source.read(part)]


def test_pictures_with_texts(tmp_path, files):
    for shard in range(2):
        members = {f"{n:03}.{suffix}": f"{shard}{n}{suffix}" for n in range(3) for suffix in ("jpg", "txt", "npy")}
        files.tar(tmp_path / "deep" / f"{shard:05}.tar", members)
    found = read(tmp_path)
    assert [one.name for one in found] == [f"deep/{shard:05}/{n:03}" for shard in range(2) for n in range(3)]
    assert found[4].meta == {"captions": ["11txt"]}
    assert [read_picture(one.target) for one in found] == [f"{s}{n}jpg".encode() for s in range(2) for n in range(3)]
    assert isinstance(found[0].target, Member)


def test_a_field_of_json(tmp_path, files):
    members = {"a.json": json.dumps({"prompt": "p", "txt": "json's"}), "a.png": b"i", "a.txt": "member's"}
    file = files.tar(tmp_path / "x.tar", members)
    (record,) = read(file, Fields(kind="t2i", target="image", text=("prompt", "txt")))
    assert record.meta == {"captions": ["p", "member's"]}


def test_pictures_by_their_names(tmp_path, files):
    members = {"k.source.png": b"s", "k.target.jpg": b"t", "k.json": '{"instruction": "x"}', "k.mask.png": b"m"}
    (record,) = read(files.tar(tmp_path / "x.tar", members), *default_mappers("json"))
    assert (record.kind, read_picture(record.target), record.meta) == ("edit", b"t", {"instruction": "x"})
    assert [read_picture(one) for one in record.references] == [b"s"]


def test_members_of_a_sample_need_not_be_neighbours(tmp_path, files):
    members = {"a.jpg": b"a", "b.jpg": b"b", "b.txt": "bb", "a.txt": "aa", ".hidden.jpg": b"", "README": "x"}
    found = read(files.tar(tmp_path / "x.tar", members))
    assert [(one.name, one.meta["captions"]) for one in found] == [("x/a", ["aa"]), ("x/b", ["bb"])]


def test_what_is_missing_or_wrong_is_said(tmp_path, files):
    members = {
        "good.jpg": b"i",
        "good.txt": "x",
        "mute.jpg": b"i",
        "alone.txt": "x",
        "latin.jpg": b"i",
        "latin.txt": "caf\u00e9".encode("latin-1"),
        "two.jpg": b"i",
        "two.png": b"i",
        "two.txt": "x",
        "blank.jpg": b"i",
        "blank.txt": " ",
    }
    found = read(files.tar(tmp_path / "x.tar", members))
    assert isinstance(found[0], Record)
    assert found[1:] == [
        Skipped("x/mute", "members or fields missing: txt"),
        Skipped("x/alone", "members or fields missing: image"),
        Skipped("x/latin", "member 'txt' is not UTF-8"),
        Skipped("x/two", "members or fields missing: image"),
        Skipped("x/blank", "empty caption"),
    ]


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_bad_json(tmp_path, files, text):
    found = read(files.tar(tmp_path / "x.tar", {"a.jpg": b"i", "a.json": text, "b.jpg": b"i", "b.txt": "x"}))
    assert found[0] == Skipped("x/a", "member 'json' is not a JSON object")
    assert isinstance(found[1], Record)


def test_a_member_that_appears_twice(tmp_path, files):
    data = files.tar(tmp_path / "x.tar", {"a.jpg": b"first", "a.txt": "x"}).read_bytes()[:4096]
    more = files.tar(tmp_path / "y.tar", {"a.jpg": b"second"}).read_bytes()
    files.write(tmp_path / "z.tar", data + more)
    record, problem = read(tmp_path / "z.tar")
    assert read_picture(record.target) == b"first"
    assert problem == Skipped("z/a.jpg", "member appears twice")


def test_a_truncated_tar_gives_what_comes_before(tmp_path, files):
    members = {f"{n}.{suffix}": f"{n}{suffix}" * 300 for n in range(4) for suffix in ("txt", "jpg")}
    data = files.tar(tmp_path / "x.tar", members).read_bytes()
    files.write(tmp_path / "x.tar", data[: data.index(b"2jpg") + 100])
    found = read(tmp_path)
    assert [one.name for one in found[:3]] == ["x/0", "x/1", "x/2"]
    assert read_picture(found[1].target) == b"1jpg" * 300
    with pytest.raises(DataError, match="picture is cut off"):
        read_picture(found[2].target)
    assert found[3].reason == "tar is cut off"
    assert found[3].name.startswith("x (the tar is cut off at byte")


def test_a_damaged_header_costs_its_own_sample_alone(tmp_path, files):
    data = files.tar(tmp_path / "x.tar", {f"{n}.{s}": b"i" for n in range(5) for s in ("jpg", "txt")}).read_bytes()
    files.write(tmp_path / "x.tar", data.replace(b"2.jpg", b"2!jpg"))
    found = read(tmp_path)
    assert [one.name for one in found[:-1]] == ["x/0", "x/1", "x/2", "x/3", "x/4"]
    assert [type(one) for one in found[:-1]] == [Record, Record, Skipped, Record, Record]
    assert found[2].reason == "members or fields missing: image"
    assert found[-1].reason == "tar is damaged"
