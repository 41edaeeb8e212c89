import gzip
import io
import tarfile

import pytest

from unipic2_data.errors import DataError
from unipic2_data.tars import find_tars, open_pieces, tar_members

NAMES = ["a.txt", "deep/" * 40 + "b.txt", "caf\u00e9.txt", "empty.txt", "last.txt"]


def pack(file, style=tarfile.PAX_FORMAT, mtime=1.5):
    with tarfile.open(file, "w", format=style) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for number, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 700 * number if name != "empty.txt" else 0, mtime
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "x" * (90 if style == tarfile.USTAR_FORMAT else 200)
        archive.addfile(link)
    return file


def contents(files):
    with open_pieces(files) as file:
        found = {}
        for member in list(tar_members(file, "here")):
            file.seek(member.start)
            found[member.name] = file.read(member.size)
        return found


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_where_tarfile_finds_them(tmp_path, style):
    file = pack(tmp_path / "x.tar", style, mtime=1)
    with tarfile.open(file) as archive:
        expected = {info.name: (info.offset_data, info.size) for info in archive if info.isreg()}
        starts = [info.offset for info in archive if info.isreg()]
    with file.open("rb") as opened:
        members = list(tar_members(opened, "here"))
    assert [member.name for member in members] == NAMES
    assert {member.name: (member.start, member.size) for member in members} == expected
    assert [member.header for member in members] == starts


@pytest.mark.parametrize("suffix", ["split.{:03}", "{:03}", "{}", "part{:02}"])
def test_pieces_are_one_tar(tmp_path, suffix):
    whole = pack(tmp_path / "whole.tar").read_bytes()
    (tmp_path / "deep").mkdir()
    step = len(whole) // 11
    for number in range(12):
        piece = tmp_path / "deep" / f"x.tar.{suffix.format(number)}"
        piece.write_bytes(whole[number * step : (number + 1) * step])
    other, pieces = sorted(find_tars(tmp_path), key=len)
    assert other == (tmp_path / "whole.tar",)
    assert contents(pieces) == contents(other)
    assert find_tars(pieces[3]) == [pieces]
    pieces[5].unlink()
    with pytest.raises(DataError, match=r"pieces of .*x\.tar are missing"):
        find_tars(tmp_path)


def test_letters_number_pieces_too(tmp_path):
    whole = pack(tmp_path / "whole.tar").read_bytes()
    (tmp_path / "x.tar.partab").write_bytes(whole[3000:])
    (tmp_path / "x.tar.partaa").write_bytes(whole[:3000])
    first, second = find_tars(tmp_path)
    assert contents(first) == contents(second)


def test_places_without_tars(tmp_path):
    with pytest.raises(DataError, match="no tars at"):
        find_tars(tmp_path)
    with pytest.raises(DataError, match="no tars at"):
        find_tars(tmp_path / "absent.tar")


def test_packed_tars_are_refused(tmp_path):
    data = gzip.compress(pack(tmp_path / "x.tar").read_bytes())
    with pytest.raises(DataError, match="packed with gzip; unpack it first"):
        list(tar_members(io.BytesIO(data), "x.tar"))


@pytest.mark.parametrize("cut", [1, 512, 700, 1024])
def test_a_cut_tar_yields_what_comes_before(tmp_path, cut):
    data = pack(tmp_path / "x.tar", tarfile.USTAR_FORMAT, mtime=1).read_bytes()
    whole = list(tar_members(io.BytesIO(data), "here"))
    walk = tar_members(io.BytesIO(data[: whole[-1].start + cut]), "x.tar")
    assert [next(walk) for _ in whole] == whole
    with pytest.raises(DataError, match=r"x\.tar: the tar is cut off at byte"):
        next(walk)


def test_a_damaged_header_is_named(tmp_path):
    data = bytearray(pack(tmp_path / "x.tar", tarfile.USTAR_FORMAT, mtime=1).read_bytes())
    whole = list(tar_members(io.BytesIO(data), "here"))
    data[whole[2].header + 20] ^= 0xFF
    walk = tar_members(io.BytesIO(data), "x.tar")
    assert [next(walk) for _ in whole[1:]] == [*whole[:2], *whole[3:]], "only the damaged member is lost"
    with pytest.raises(DataError, match=f"damaged tar header at byte {whole[2].header}"):
        next(walk)


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_reading_goes_on_after_each_damage(tmp_path, style):
    """A header, bytes within a file, a header of a long name, and at last the cut: what is sound is found."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=style) as archive:
        for number in range(12):
            info = tarfile.TarInfo("deep/" * 40 * (number == 8) + f"{number:02}.txt")
            info.size = 3000
            archive.addfile(info, io.BytesIO(bytes([65 + number]) * 3000))
    data = bytearray(file.getvalue())
    whole = list(tar_members(io.BytesIO(data), "here"))
    data[whole[1].start - 512 + 150] ^= 1
    data[whole[4].start + 100 : whole[4].start + 2000] = bytes(1900)
    data[whole[8].header] ^= 1
    found = []
    first = rf"x\.tar: damaged tar header at byte {whole[1].start - 512} "
    with pytest.raises(DataError, match=first):
        found.extend(tar_members(io.BytesIO(data[: whole[11].start + 10]), "x.tar"))
    assert [one for one in found if one in whole] == [one for one in whole if one not in (whole[1], whole[8])]


def test_no_tar_at_all():
    with pytest.raises(DataError, match="damaged tar header at byte 0"):
        list(tar_members(io.BytesIO(b"hello" * 300), "x.tar"))
    with pytest.raises(DataError, match="cut off at byte 0"):
        list(tar_members(io.BytesIO(b""), "x.tar"))
