import pickle
from pathlib import Path

import pytest

from unipic2_data.adapters.places import FolderPlace, TarPlace, index_tars
from unipic2_data.adapters.record import Member, read_picture
from unipic2_data.errors import DataError


def test_a_folder(tmp_path, files):
    files.write(tmp_path / "a" / "b.jpg", b"x")
    place = FolderPlace(tmp_path)
    assert read_picture(place.find("a/b.jpg")) == b"x"
    for name in ("a/c.jpg", "a/b.jpg/c", "nul\0"):
        with pytest.raises(DataError, match=r"picture is missing|picture cannot be opened"):
            read_picture(place.find(name))
    with pytest.raises(DataError, match="cannot be opened"):
        read_picture(place.find("a"))


def test_tars_and_their_pieces(tmp_path, files):
    for number in range(3):
        files.tar(tmp_path / "tars" / f"{number}.tar", {f"t{number}/{n}.png": f"{number}{n}" * 400 for n in range(20)})
    whole = (tmp_path / "tars" / "1.tar").read_bytes()
    (tmp_path / "tars" / "1.tar").unlink()
    for piece in range(4):
        files.write(
            tmp_path / "tars" / f"1.tar.split.00{piece}",
            whole[piece * 9000 : (piece + 1) * 9000 if piece < 3 else None],
        )
    seen = []
    assert index_tars(tmp_path / "tars", tmp_path / "index", seen.append) == []
    assert sum(seen) == 60
    place = pickle.loads(pickle.dumps(TarPlace(tmp_path / "index")))
    for number in range(3):
        for n in (0, 7, 19):
            found = place.find(f"./t{number}/{n}.png")
            assert isinstance(found, Member)
            assert read_picture(found) == f"{number}{n}".encode() * 400
    assert place.find("t1/20.png") is None
    assert len(pickle.dumps(place)) < 2000


def test_an_index_is_made_once(tmp_path, files):
    files.tar(tmp_path / "a.tar", {"a.png": b"x"})
    index_tars(tmp_path, tmp_path / "index")
    (tmp_path / "a.tar").unlink()
    assert index_tars(tmp_path, tmp_path / "index") == []


def test_damaged_tars_are_named_and_used_as_far_as_they_go(tmp_path, files):
    data = files.tar(tmp_path / "a.tar", {"a.png": b"x" * 600, "b.png": b"y" * 600}).read_bytes()
    files.write(tmp_path / "a.tar", data[: data.index(b"y" * 600) + 100])
    files.tar(tmp_path / "b.tar", {"c.png": b"z"})
    (damage,) = index_tars(tmp_path, tmp_path / "index")
    assert damage.startswith("a.tar: the tar is cut off")
    place = TarPlace(tmp_path / "index")
    assert read_picture(place.find("a.png")) == b"x" * 600
    assert read_picture(place.find("c.png")) == b"z"
    with pytest.raises(DataError, match="picture is cut off"):
        read_picture(place.find("b.png"))


def test_empty_pictures():
    with pytest.raises(DataError, match="picture is empty"):
        read_picture(b"")
    with pytest.raises(DataError, match="picture cannot be opened"):
        read_picture(Member((Path("absent.tar"),), "x", 0, 1))
