import io

import numpy as np
import pytest
from PIL import Image

from unipic2_data.errors import DataError
from unipic2_data.images import decode_rgb, decode_small, encode_png, picture_size, plain_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)


def save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_png_round_trip_and_pillow_agrees():
    data = encode_png(PIXELS)
    assert np.array_equal(decode_rgb(data), PIXELS)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), PIXELS)


def test_pngs_of_others():
    assert np.array_equal(decode_rgb(save(Image.fromarray(PIXELS), "PNG")), PIXELS)


def test_encode_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        encode_png(PIXELS.astype(np.float32))


def test_exif_rotation():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees counter-clockwise to view
    data = save(Image.fromarray(PIXELS), "PNG", exif=exif)
    assert np.array_equal(decode_rgb(data), np.rot90(PIXELS, -1))
    plain, suffix, size = plain_picture(data)
    assert (suffix, size) == ("png", (9, 7))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(plain))), np.rot90(PIXELS, -1))


def test_alpha_is_laid_on_white():
    rgba = np.dstack([PIXELS, np.zeros((7, 9), np.uint8)])
    rgba[0, 0, 3] = 255
    pixels = decode_rgb(save(Image.fromarray(rgba), "PNG"))
    assert np.array_equal(pixels[0, 0], PIXELS[0, 0])
    assert (pixels[1:] == 255).all()


def test_palette_with_transparency():
    image = Image.fromarray(PIXELS).quantize(8)
    assert decode_rgb(save(image, "PNG", transparency=0)).shape == (7, 9, 3)


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode_rgb(save(Image.fromarray(ramp), "PNG"))
    assert np.abs(pixels[..., 0].astype(int) - np.round(ramp / 257).astype(int)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "LA", "YCbCr"])
def test_other_modes(mode):
    image = Image.fromarray(np.full((6, 6, 3), 200, np.uint8)).convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    pixels = decode_rgb(save(image, kind))
    assert pixels.shape == (6, 6, 3)
    if mode != "1":
        assert np.abs(pixels.astype(int) - 200).max() <= 3
    assert plain_picture(save(image, kind))[1] == ("jpg" if mode == "YCbCr" else "png")


def test_plain_files_keep_their_bytes():
    for kind, suffix in (("PNG", "png"), ("JPEG", "jpg")):
        data = save(Image.fromarray(PIXELS), kind)
        assert plain_picture(data) == (data, suffix, (7, 9))
    webp = save(Image.fromarray(PIXELS), "WEBP", lossless=True)
    plain, suffix, _ = plain_picture(webp)
    assert suffix == "png"
    assert np.array_equal(decode_rgb(plain), PIXELS)


@pytest.mark.parametrize(
    "damage",
    [
        lambda png, jpeg: b"",
        lambda png, jpeg: b"no image at all",
        lambda png, jpeg: png[:-60],
        lambda png, jpeg: png[:60] + b"\0" + png[61:],
        lambda png, jpeg: jpeg[: len(jpeg) // 2],
    ],
)
def test_damage_is_one_clear_error(damage):
    png, jpeg = encode_png(PIXELS), save(Image.fromarray(PIXELS).resize((64, 64)), "JPEG")
    with pytest.raises(DataError, match="unreadable image"):
        decode_rgb(damage(png, jpeg))


def test_bomb(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="unreadable image"):
        decode_rgb(save(Image.fromarray(PIXELS), "PNG"))


def test_large_jpegs_are_decoded_small():
    image = Image.fromarray(PIXELS).resize((900, 700), Image.Resampling.BICUBIC)
    data = save(image, "JPEG", quality=95)
    small = decode_small(data, 100)
    assert small.shape[:2] == (175, 225)
    whole = np.asarray(Image.fromarray(decode_rgb(data)).resize((225, 175), Image.Resampling.BOX)).astype(int)
    assert np.abs(whole - small).mean() < 3
    assert decode_small(data, 900).shape == (700, 900, 3)
    png = save(Image.fromarray(PIXELS), "PNG")
    assert np.array_equal(decode_small(png, 4), PIXELS)
    with pytest.raises(DataError, match="unreadable image"):
        decode_small(data[:500], 100)


def test_size_from_the_head():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert picture_size(save(Image.fromarray(PIXELS), "PNG")) == (7, 9)
    assert picture_size(save(Image.fromarray(PIXELS), "JPEG", exif=exif)) == (9, 7)
    with pytest.raises(DataError, match="unreadable image"):
        picture_size(b"no image")
