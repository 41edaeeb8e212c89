import io
import tarfile

import pytest

from unipic2_data.quarantine import Fault
from unipic2_data.sample import Image, Sample, sample_to_tar
from unipic2_data.tar_stream import tar_samples

PIECES = [sample_to_tar(Sample(f"k{n}", "t2i", {"captions": [f"t{n}"]}, Image(bytes([n]) * 700))) for n in range(4)]
END = bytes(1024)


def read(data):
    found = tar_samples(io.BytesIO(data).read, "x.tar")
    return [one.reason if isinstance(one, Fault) else one.key for one in found]


def test_samples_come_in_order():
    assert read(b"".join(PIECES) + END) == ["k0", "k1", "k2", "k3"]


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_others(style):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=style) as archive:
        archive.addfile(_info("folder", 0, tarfile.DIRTYPE))
        for n in range(3):
            prefix = "d" * 80 if style == tarfile.USTAR_FORMAT else "d" * 150
            for suffix, data in {"jpg": b"j" * 600, "txt": b"a text"}.items():
                archive.addfile(_info(f"{prefix}/{n}.{suffix}", len(data)), io.BytesIO(data))
    found = list(tar_samples(io.BytesIO(file.getvalue()).read, "x.tar"))
    assert [one.meta["captions"] for one in found] == [["a text"]] * 3
    assert [one.target.data for one in found] == [b"j" * 600] * 3
    assert len({one.key for one in found}) == 3


def _info(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.type = size, 1.5, kind
    return info


def test_a_damaged_header_costs_its_sample_alone():
    data = bytearray(b"".join(PIECES) + END)
    data[len(PIECES[0]) + 3] ^= 1  # in the name of the second sample's first member
    assert read(bytes(data)) == ["k0", "damaged tar", "unreadable tar or JSON", "k2", "k3"]


def test_a_damaged_size_costs_its_sample_alone():
    data = bytearray(b"".join(PIECES) + END)
    place = len(PIECES[0]) + 124
    data[place : place + 11] = b"77777777777"
    assert read(bytes(data)) == ["k0", "damaged tar", "unreadable tar or JSON", "k2", "k3"]


@pytest.mark.parametrize(("cut", "whole"), [(1, True), (323, True), (325, False), (1100, False), (1600, False)])
def test_a_truncated_tar_keeps_what_is_whole(cut, whole):
    data = b"".join(PIECES)
    found = list(tar_samples(io.BytesIO(data[: len(data) - cut]).read, "x.tar"))
    assert [one.key for one in found if isinstance(one, Sample) and one.target] == ["k0", "k1", "k2", "k3"][: 3 + whole]
    assert [one.reason for one in found if isinstance(one, Fault)] == ["damaged tar"]


def test_a_tar_without_its_end_is_said_to_be_cut():
    assert read(b"".join(PIECES)) == ["k0", "k1", "k2", "k3", "damaged tar"]
    assert read(b"") == ["damaged tar"]
    assert read(END) == []


def test_json_that_is_no_text():
    bad = sample_to_tar(Sample("bad", "t2i", {"captions": ["abc"]}, Image(b"x"))).replace(b"abc", b"\xff\xfe\xfd")
    assert read(PIECES[0] + bad + PIECES[1] + END) == ["k0", "unreadable tar or JSON", "k1"]
