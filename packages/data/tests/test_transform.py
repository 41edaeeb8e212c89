import io

import numpy as np
import pytest
from PIL import Image

from unipic2_data.errors import DataError
from unipic2_data.images import Raster, decode_picture, encode_png
from unipic2_data.quarantine import BadSample
from unipic2_data.transform import Transform, same_aspect

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (32, 32), (31, 33), (10, 12), (301, 97)])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_an_identical_pair_stays_identical(shape, size):
    picture = RNG.integers(0, 256, (*shape, 3), np.uint8)
    target, (reference,), scale = Transform(size)(Raster.of(picture), [Raster.of(picture.copy())])
    assert target.shape == (*size, 3)
    assert np.array_equal(target, reference)
    assert (scale > 1) == (shape[0] < size[0] or shape[1] < size[1])


def test_nothing_is_changed_at_the_wanted_size():
    picture = RNG.integers(0, 256, (32, 32, 3), np.uint8)
    target, _, scale = Transform((32, 32))(Raster.of(picture), [])
    assert target is picture
    assert scale == 1


def test_the_crop_is_centred():
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 255
    target, _, _ = Transform((20, 20))(Raster.of(picture), [])
    assert (target == 255).all()


def test_a_smaller_reference_gets_the_same_crop():
    x = np.linspace(0, 255, 240)
    picture = np.broadcast_to(x[None, :, None], (120, 240, 3)).astype(np.uint8)
    half = picture[::2].reshape(60, 120, 2, 3).mean(2).astype(np.uint8)
    target, (reference,), _ = Transform((48, 48))(Raster.of(picture), [Raster.of(half)])
    assert np.abs(target.astype(int) - reference).max() <= 3


def test_other_aspect_ratio():
    assert same_aspect((100, 200), (201, 400))
    assert not same_aspect((858, 1024), (896, 1152))
    with pytest.raises(DataError, match="reference of 20x30 pixels and target of 30x20 pixels"):
        Transform((8, 8))(Raster.of(np.zeros((20, 30, 3), np.uint8)), [Raster.of(np.zeros((30, 20, 3), np.uint8))])


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=97, subsampling=0, **options)
    return file.getvalue()


def blobs(height, width):
    """Soft spots near the four corners, whose centres can be measured to a fraction of a pixel."""
    y, x = np.mgrid[:height, :width]
    light = sum(
        np.exp(-(((y / height - cy) * 9) ** 2) - ((x / width - cx) * 9) ** 2)
        for cy in (0.25, 0.75)
        for cx in (0.25, 0.75)
    )
    return np.repeat((255 * light.clip(0, 1)).astype(np.uint8)[..., None], 3, 2)


def centres(pixels):
    height, width = (edge // 2 for edge in pixels.shape[:2])
    found = []
    for top in (0, height):
        for left in (0, width):
            part = pixels[top : top + height, left : left + width, 0].astype(float)
            y, x = np.mgrid[:height, :width]
            found.append([(part * y).sum() / part.sum(), (part * x).sum() / part.sum()])
    return np.array(found)


@pytest.mark.parametrize("shape", [(480, 640), (513, 769), (1023, 777), (300, 301)])
@pytest.mark.parametrize("size", [(64, 64), (112, 144), (144, 112)])
def test_an_identical_jpeg_pair_stays_identical_and_is_decoded_no_larger_than_needed(shape, size):
    data = jpeg(blobs(*shape))
    first, second = decode_picture(data, size), decode_picture(data, size)
    assert first.size == shape
    assert first.reduction == min(2 ** int(np.log2(min(shape[0] / size[0], shape[1] / size[1]))), 8)
    target, (reference,), scale = Transform(size)(first, [second])
    assert np.array_equal(target, reference)
    assert scale <= 1


@pytest.mark.parametrize("shape", [(480, 640), (513, 769), (1023, 777), (1001, 667)])
@pytest.mark.parametrize("size", [(64, 64), (112, 144), (144, 112)])
def test_nothing_shifts_between_a_jpeg_and_a_png(shape, size):
    """The JPEG is decoded at a fraction of its size, which its edges are no multiples of, the PNG whole."""
    pixels = blobs(*shape)
    pair = [decode_picture(data, size) for data in (jpeg(pixels), encode_png(pixels))]
    assert pair[0].reduction > pair[1].reduction == 1
    target, (reference,), _ = Transform(size)(pair[0], pair[1:])
    assert np.abs(centres(target) - centres(reference)).max() < 0.05
    assert np.abs(target.astype(int) - reference).mean() < 1.5


def test_a_turned_jpeg_is_decoded_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(blobs(480, 640)))
    picture = decode_picture(jpeg(turned, exif=exif), (112, 144))
    assert (picture.size, picture.reduction) == ((480, 640), 4)
    target, _, _ = Transform((112, 144))(picture, [])
    whole, _, _ = Transform((112, 144))(Raster.of(blobs(480, 640)), [])
    assert np.abs(centres(target) - centres(whole)).max() < 0.05


def test_small_pictures_are_refused_unless_they_may_be_enlarged():
    picture = Raster.of(np.zeros((20, 40, 3), np.uint8))
    with pytest.raises(BadSample, match="does not cover its bucket of 24x24"):
        Transform((24, 24), upscale=False)(picture, [])
    assert Transform((20, 24), upscale=False)(picture, [])[2] == 1
