"""Keys follow content, not names; pictures are cut and resized as asked."""

import numpy as np
import pytest
from PIL import Image

from unipic2_evals.pictures import Picture, Request


@pytest.fixture
def picture(tmp_path):
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png", pixels


def test_pixels_and_crop(picture):
    path, pixels = picture
    np.testing.assert_array_equal(Picture(path).pixels(), pixels)
    np.testing.assert_array_equal(Picture(path, (2, 1, 5, 4)).pixels(), pixels[1:4, 2:5])


def test_resized_to_another(picture, tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "small.png")
    assert Picture(picture[0], like=tmp_path / "small.png").pixels().shape == (3, 4, 3)


def test_key_follows_content(picture, tmp_path):
    path, _ = picture
    (tmp_path / "copy.png").write_bytes(path.read_bytes())
    request = Request("reply", (Picture(path),), "how good?")
    assert request.key() == Request("reply", (Picture(tmp_path / "copy.png"),), "how good?").key()
    others = [
        Request("answer", (Picture(path),), "how good?"),
        Request("reply", (Picture(path),), "how bad?"),
        Request("reply", (Picture(path), Picture(path)), "how good?"),
        Request("reply", (Picture(path, (0, 0, 4, 4)),), "how good?"),
        Request("reply", (Picture(path, like=path),), "how good?"),
    ]
    assert len({request.key(), *(other.key() for other in others)}) == 6


def test_key_changes_with_the_file(picture):
    path, pixels = picture
    before = Request("detections", (Picture(path),)).key()
    Image.fromarray(255 - pixels).save(path)
    assert Request("detections", (Picture(path),)).key() != before


def test_broken_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(ValueError, match=r"a\.png: can not be read as a picture"):
        Picture(tmp_path / "a.png").pixels()
