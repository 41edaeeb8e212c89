import base64
import io
import tarfile
import zlib

import pytest

from unipic2_data.errors import DataError
from unipic2_data.images import decode_rgb
from unipic2_data.sample import Image, Sample, lacks, sample_from_tar, sample_to_tar, texts_of

SAMPLE = Sample(
    "a-1_b", "edit", {"instruction": "remove the \u00e9", "task": "remove"}, Image(b"t" * 700, "jpg"), [Image(b"r")]
)


def test_round_trip():
    again = sample_from_tar(sample_to_tar(SAMPLE), "here")
    assert again == SAMPLE


def test_header_is_what_tarfile_writes():
    data = sample_to_tar(SAMPLE)
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["a-1_b.json", "a-1_b.target.jpg", "a-1_b.ref_0.png"]
        assert archive.extractfile("a-1_b.target.jpg").read() == b"t" * 700
    for member in members:
        info = tarfile.TarInfo(member.name)
        info.size = member.size
        assert data[member.offset : member.offset + 512] == info.tobuf(tarfile.USTAR_FORMAT)


def test_references_keep_their_order():
    sample = Sample("k", "edit", {"instruction": "x"}, Image(b"t"), [Image(bytes([n])) for n in range(12)])
    assert sample_from_tar(sample_to_tar(sample), "here").references == sample.references


@pytest.mark.parametrize("meta", [{}, {"captions": []}, {"captions": ["  "]}, {"captions": None}, {"captions": [3]}])
def test_no_text(meta):
    with pytest.raises(DataError, match="sample k: a t2i sample needs a text in 'captions'"):
        sample_to_tar(Sample("k", "t2i", meta, Image(b"t")))


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "\u00e9", "x" * 81])
def test_bad_keys(key):
    with pytest.raises(DataError, match="sample key"):
        sample_to_tar(Sample(key, "t2i", {"captions": ["x"]}))


def test_text_that_utf8_cannot_hold():
    with pytest.raises(DataError, match="sample k: its text cannot be written as UTF-8"):
        sample_to_tar(Sample("k", "prompt", {"captions": ["\ud800"]}))


def test_half_a_character_is_no_text():
    """JSON may hold one half of a pair of escapes, as captions do that were cut off in the middle of an emoji."""
    data = foreign({"1.jpg": b"j", "1.json": b'{"captions": ["cut \\ud83d", "whole \\ud83d\\ude00"]}'})
    sample = sample_from_tar(data, "here")
    assert texts_of("t2i", sample.meta, "here") == ["whole \U0001f600"]
    data = foreign({"1.jpg": b"j", "1.json": b'{"captions": ["cut \\ud83d"]}'})
    assert lacks(sample_from_tar(data, "here")) == "no text"


def test_unknown_kind():
    with pytest.raises(DataError, match="unknown kind 'video'"):
        sample_to_tar(Sample("k", "video", {"captions": ["x"]}))


def test_damage_is_named():
    data = sample_to_tar(SAMPLE)
    with pytest.raises(DataError, match=r"shard 3: member .* is cut off"):
        sample_from_tar(data[:1600], "shard 3")
    with pytest.raises(DataError, match="damaged tar header"):
        sample_from_tar(b"x" * 512 + data, "shard 3")
    with pytest.raises(DataError, match="no readable json"):
        sample_from_tar(data[1024:], "shard 3")
    with pytest.raises(DataError, match="no readable json"):
        sample_from_tar(b"", "shard 3")


def test_other_version():
    data = sample_to_tar(SAMPLE).replace(b'"version":1', b'"version":9')
    with pytest.raises(DataError, match="version 9"):
        sample_from_tar(data, "here")


# A shard as it was written before sizes of references, instructions in several phrasings and foreign tars were known.
OLD_SHARD = zlib.decompress(
    base64.b64decode(
        "eNrtms9r1EAUx2e3+KtQxJ+oJxnwlq4zSbrBXES7onuwiHgrpR2T6W66NklnJt1K3YNVC/4D6p+gFy/+BeLFf8KL+A8I0rMv"
        "qyDEgyhsk8b3hc2beZPdPSQfvu9lImZ5a00nMZmgGKjtuuMIKkbG27/GP/KezR1ykZF9UKaNUPCX5P/UNt2USkdJTH1u0UEU"
        "h9Snxo6oRQORGljQ1F+kSSwhY4YJXbKoTjIVSDgvWk8TZfwtWHoQBTIeJ+fnGdxTDHJ9GfX6hvq2RYdRaPrUd0YEVSkJuFYA"
        "QE+aVhr3SuKfF/jnzGFt5H8/9PzOws2Z6QvTMJzp3urchTgFn+bRJhxPnv16G8Lxbufava1GsPK0cfjckxOEfCSnkpfvZ/Pv"
        "d28sdN5eX9lBkg6m7i/b5fv/nF30fwcC8l+W/8swMuDfUayNygIzXoVyYPXDm7wIEHoAUxGGMNFBoiRUCNswov6V1tzIoqmK"
        "NoWReXIgU/B/+BE5QuevLP9V9H/PRv4r5/87uf8fI41H5NKnvcuv0f/rwb+Sq8tscvj/C//M85D/yvG/m/N/njQZ8fay"
        "b++Q//rwz6vFP8f6v4L8P875P0SaX0j3Re/zEeT/4CtwJt7+/5F/5rnF/p+7+PyvvP5/Q0Brv5FJ/bP1H/aFuQopEeuhVPkG"
        "ASQodvT14H/S5f/f+z9U/y72/9Xz/2e5/58hU6/IorN7Gv2/BgrdCvj/7/v/3MX9//L8P1XJemoKrwBo8ZAuoeejUChUTfQd"
        "x08+GQ=="
    )
)


def test_old_shards_stay_readable():
    with tarfile.open(fileobj=io.BytesIO(OLD_SHARD)) as archive:
        starts = [member.offset for member in archive if member.name.endswith(".json")]
    pieces = [OLD_SHARD[start:stop] for start, stop in zip(starts, [*starts[1:], len(OLD_SHARD) - 1024], strict=True)]
    t2i, edit, qa, prompt = (sample_from_tar(piece, "here") for piece in pieces)
    assert (t2i.key, t2i.kind, t2i.meta["captions"], t2i.references) == ("a-1", "t2i", ["one", "two"], [])
    assert (edit.key, edit.meta["instruction"], edit.meta["private"]) == ("b_2", "caf\u00e9", {"kept": True})
    assert (qa.kind, qa.meta["answer"], qa.target) == ("qa", "that", None)
    assert (prompt.kind, prompt.meta["captions"]) == ("prompt", ["say"])
    values = [decode_rgb(image.data)[0, 0, 0] for image in (t2i.target, edit.target, *edit.references, *qa.references)]
    assert values == [1, 2, 3, 4, 5]
    assert [lacks(sample) for sample in (t2i, edit, qa, prompt)] == [None] * 4
    # ... and what is written today has the same bytes.
    assert [sample_to_tar(sample) for sample in (t2i, edit, qa, prompt)] == pieces


def test_roles_and_fields_of_later_kinds_are_left_alone():
    sample = Sample("p", "edit", {"instruction": "x", "preference": {"margin": 2}}, Image(b"t"), [Image(b"r")])
    loser = Sample("p", "edit", {"instruction": "x"}, Image(b"worse"))
    rejected = sample_to_tar(loser).replace(b"p.target.png", b"p.rejected.x")[1024:]
    assert sample_from_tar(sample_to_tar(sample) + rejected, "here") == sample
    later = foreign({"p.json": b'{"version": 1, "kind": "preference"}', "p.target.png": b"t"})
    with pytest.raises(DataError, match="version 1 and kind 'preference'"):
        sample_from_tar(later, "here")


@pytest.mark.parametrize(
    ("sample", "missing"),
    [
        (Sample("k", "t2i", {"captions": ["x"]}), "no target"),
        (Sample("k", "t2i", {"captions": []}, Image(b"t")), "no text"),
        (Sample("k", "edit", {"instruction": "x"}, Image(b"t")), "no reference"),
        (Sample("k", "edit", {"instruction": "x"}, None, [Image(b"r")]), "no target"),
        (Sample("k", "edit", {"instruction": ["x", "y"]}, Image(b"t"), [Image(b"r")]), None),
        (Sample("k", "qa", {"question": "x", "answer": " "}, None, [Image(b"r")]), "no answer"),
        (Sample("k", "qa", {"question": "x", "answer": "y"}), "no reference"),
        (Sample("k", "prompt", {"captions": ["x"]}), None),
    ],
)
def test_what_a_kind_needs(sample, missing):
    assert lacks(sample) == missing


def foreign(members: dict[str, bytes], style: int = tarfile.PAX_FORMAT, **fields) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=style) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
        return file.getvalue()[: archive.offset]


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ({"a/0001.jpg": b"j", "a/0001.txt": "\ufeffa caf\u00e9 \n".encode()}, ["a caf\u00e9"]),
        ({"a/0001.json": b'{"prompt": "p", "seed": 3}', "a/0001.jpg": b"j"}, ["p"]),
        ({"a/0001.jpg": b"j", "a/0001.json": b'{"captions": ["p", "q"]}', "a/0001.cls": b"1"}, ["p", "q"]),
        ({"a/0001.jpg": b"j", "a/0001.json": b'{"caption": "p"}', "a/0001.txt": b"text first"}, ["text first"]),
    ],
)
@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_of_others_are_text_to_image(members, captions, style):
    # A fractional time makes tarfile write a pax header before every member, as webdataset's own writer does.
    sample = sample_from_tar(foreign(members, style, mtime=1.5), "here")
    assert (sample.key, sample.kind, sample.meta["captions"]) == ("a/0001", "t2i", captions)
    assert sample.target == Image(b"j", "jpg")


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(style):
    key = "deep/" * 40 + "0001"
    sample = sample_from_tar(foreign({f"{key}.jpg": b"j", f"{key}.txt": b"x"}, style), "here")
    assert sample.key == key
    assert sample.meta["captions"] == ["x"]


@pytest.mark.parametrize(
    "members",
    [
        {"1.jpg": b"j"},
        {"1.txt": b"alone"},
        {"1.jpg": b"j", "1.png": b"p", "1.txt": b"two pictures"},
        {"1.jpg": b"j", "1.txt": b"\xff"},
        {"1.jpg": b"j", "1.json": b"[1]"},
        {"1.jpg": b"j", "1.json": b"["},
        {"1.jpg": b"j", "1.json": b"[" * 100_000},
    ],
)
def test_what_is_no_sample_says_so(members):
    with pytest.raises(DataError, match="has no readable json member with version and kind"):
        sample_from_tar(foreign(members), "here")
