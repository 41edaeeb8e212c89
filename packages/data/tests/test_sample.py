import io
import tarfile

import pytest

from unipic2_data.errors import DataError
from unipic2_data.sample import Image, Sample, sample_from_tar, sample_to_tar

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
