import numpy as np
import pytest

from unipic2_data.buckets import Buckets, BucketSizes
from unipic2_data.errors import DataError

SIZES = BucketSizes(Buckets([256, 512, 1024]), 16)


def place(height, width, sizes=SIZES):
    number = int(sizes.assign(np.array([[height, width]], np.uint16))[0])
    return sizes.sizes[number] if number >= 0 else number


def test_seven_shapes_at_three_resolutions_of_about_equal_area():
    assert len(SIZES.sizes) == 21
    assert {(512, 512), (448, 592), (592, 448), (416, 624), (384, 688), (1024, 1024), (256, 256)} <= set(SIZES.sizes)
    for height, width in SIZES.sizes:
        assert height % 16 == width % 16 == 0
        resolution = min((256, 512, 1024), key=lambda one: abs(height * width - one**2))
        assert abs(height * width / resolution**2 - 1) < 0.06


def test_the_multiple_is_that_of_the_model():
    assert all(edge % 64 == 0 for size in BucketSizes(Buckets([512]), 64).sizes for edge in size)


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1023, 1024), (512, 512)),
        ((512, 512), (512, 512)),
        ((300, 300), (256, 256)),
        ((3000, 4000), (880, 1184)),
        ((4000, 3000), (1184, 880)),
        ((480, 640), (448, 592)),
        ((720, 1280), (384, 688)),
        ((65535, 65535), (1024, 1024)),
        ((1080, 5000), (768, 1360)),
        ((255, 256), -1),
        ((100, 4000), -1),
        ((0, 0), -2),
        ((0, 500), -2),
    ],
)
def test_the_highest_resolution_without_enlarging_and_the_nearest_shape(picture, bucket):
    assert place(*picture) == bucket


def test_small_pictures_are_enlarged_if_asked():
    sizes = BucketSizes(Buckets([256, 512], upscale=True), 16)
    assert place(100, 130, sizes) == (224, 288)
    assert place(600, 600, sizes) == (512, 512)
    assert place(0, 0, sizes) == -2


def test_no_picture_is_ever_enlarged_and_the_nearest_shape_is_exact():
    rng = np.random.default_rng(0)
    pictures = rng.integers(1, 2000, (3000, 2)).astype(np.uint16)
    numbers = SIZES.assign(pictures)
    levels = [{size for size in SIZES.sizes if abs(size[0] * size[1] / r**2 - 1) < 0.06} for r in (1024, 512, 256)]
    for (height, width), number in zip(pictures.tolist(), numbers.tolist(), strict=True):
        nearest = [min(level, key=lambda size: abs(np.log(size[1] / size[0] * height / width))) for level in levels]
        fitting = [size for size in nearest if size[0] <= height and size[1] <= width]
        assert (SIZES.sizes[number] if number >= 0 else None) == (fitting[0] if fitting else None)


@pytest.mark.parametrize(
    ("buckets", "multiple", "message"),
    [
        (Buckets([]), 16, "need resolutions"),
        (Buckets([256], []), 16, "need resolutions"),
        (Buckets([256], ["4x3"]), 16, "'4x3' is no aspect ratio"),
        (Buckets([256], ["0:3"]), 16, "no aspect ratio"),
        (Buckets([8]), 16, "resolution 8 is below 16"),
    ],
)
def test_impossible_buckets(buckets, multiple, message):
    with pytest.raises(DataError, match=message):
        BucketSizes(buckets, multiple)
