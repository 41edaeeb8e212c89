import numpy as np
import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.render import AREA, CENTROID, coverage, render, render_batch
from unipic2_data.shapes.scene import BACKGROUNDS, COLORS, SHAPES, Draws, Item, Scene
from unipic2_data.shapes.world import random_scene


def scenes(count=40):
    return [random_scene(Draws(keyed_rng(0, str(n))), "train") for n in range(count)]


@pytest.mark.parametrize("size", [32, 128])
def test_batch_equals_single(size):
    some = scenes()
    batch = render_batch(some, size)
    assert batch.shape == (40, size, size, 3)
    assert batch.dtype == np.uint8
    for scene, pixels in zip(some, batch, strict=True):
        assert np.array_equal(render(scene, size), pixels)


@pytest.mark.parametrize("size", [32, 128])
def test_colours_and_gaps(size):
    for scene in scenes():
        pixels = render(scene, size)
        edge = size // 32
        border = np.ones((size, size), bool)
        border[edge:-edge, edge:-edge] = False
        border[size // 2 - edge : size // 2 + edge] = True  # the two-unit gap between cells
        border[:, size // 2 - edge : size // 2 + edge] = True
        assert (pixels[border] == BACKGROUNDS[scene.background]).all()
        for item in scene.items:
            y, x = int((item.y + 0.1 * item.r) * size / 32), int(item.x * size / 32)
            assert tuple(pixels[y, x]) == COLORS[item.color]


@pytest.mark.parametrize("shape", SHAPES)
def test_area_and_centroid(shape):
    alpha = coverage(shape, np.array([40.3]), np.array([39.6]), np.array([30.0]), 80, 80)[0]
    y, x = np.mgrid[:80, :80] + 0.5
    assert alpha.sum() == pytest.approx(AREA[shape] * 900, rel=0.01)
    assert (alpha * x).sum() / alpha.sum() == pytest.approx(40.3, abs=0.1)
    assert (alpha * y).sum() / alpha.sum() == pytest.approx(39.6 + 30 * CENTROID[shape], abs=0.15)


@pytest.mark.parametrize("shape", SHAPES)
def test_analytic_coverage_agrees_with_supersampling(shape):
    fine = coverage(shape, np.array([10.3 * 16]), np.array([9.7 * 16]), np.array([6.2 * 16]), 320, 320)[0]
    coarse = coverage(shape, np.array([10.3]), np.array([9.7]), np.array([6.2]), 20, 20)[0]
    assert np.abs(fine.reshape(20, 16, 20, 16).mean((1, 3)) - coarse).mean() < 0.006


def test_the_scaled_world_is_the_same_world():
    for scene in scenes(10):
        small = render(scene, 32).astype(int)
        large = render(scene, 128).reshape(32, 4, 32, 4, 3).mean((1, 3))
        assert np.abs(small - large).mean() < 1.5


def test_empty_scene_and_bad_sizes():
    empty = Scene("sky", ())
    assert (render(empty, 32) == BACKGROUNDS["sky"]).all()
    for size in (33, 8):
        with pytest.raises(ValueError, match="even number"):
            render(empty, size)


def test_pixels_are_pinned():
    # A change of the renderer changes every data set: it must be meant.
    scene = Scene("cream", (Item("triangle", "red", 0, 8.5, 7.25, 5.5), Item("cross", "blue", 3, 24.0, 23.5, 6.125)))
    pixels = render(scene, 32).astype(int)
    assert pixels.sum() == 645937
    assert pixels[1:4, 8].tolist() == [[238, 183, 164], [219, 68, 65], [215, 40, 40]]
