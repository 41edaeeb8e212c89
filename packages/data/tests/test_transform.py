import numpy as np
import pytest

from unipic2_data.errors import DataError
from unipic2_data.images import Raster
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
