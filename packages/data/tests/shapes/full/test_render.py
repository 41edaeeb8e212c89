import numpy as np
import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.full.drawing import random_scene
from unipic2_data.shapes.full.render import AREA, CENTROID, coverage, render, render_batch, styled
from unipic2_data.shapes.full.scene import BACKGROUNDS, COLORS, EXTENTS, SHAPES, Item, Scene
from unipic2_data.shapes.scene import Draws


def scenes(count):
    draws = Draws(keyed_rng(0, "render"))
    return [random_scene(draws, "many" if n % 3 == 0 else None) for n in range(count)]


@pytest.mark.parametrize("size", [64, 96])
def test_batch_equals_single(size):
    some = scenes(30)
    batch = render_batch(some, size)
    assert batch.shape == (30, size, size, 3)
    for scene, pixels in zip(some, batch, strict=True):
        assert np.array_equal(render(scene, size), pixels)


def test_pixels_are_background_object_or_between():
    for scene in scenes(40):
        pixels = render(scene, 128).astype(int)
        covered = np.zeros((128, 128), bool)
        for item in scene.items:
            left, top, right, bottom = (2 * edge for edge in item.box)
            rows, columns = slice(int(top) - 1, int(bottom) + 2), slice(int(left) - 1, int(right) + 2)
            covered[rows, columns] = True
            color = np.abs(pixels[rows, columns] - COLORS[item.color]).max(-1)
            assert (color == 0).sum() >= 0.7 * AREA[item.shape] * (2 * item.r - 1) ** 2
        assert (pixels[~covered] == BACKGROUNDS[scene.background]).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_area_centroid_and_extent(shape):
    alpha = coverage(shape, np.array([40.3]), np.array([39.6]), np.array([30.0]), 80, 80)[0]
    y, x = np.mgrid[:80, :80] + 0.5
    assert alpha.sum() == pytest.approx(AREA[shape] * 900, rel=0.01)
    right, down = CENTROID[shape]
    assert (alpha * x).sum() / alpha.sum() == pytest.approx(40.3 + 30 * right, abs=0.15)
    assert (alpha * y).sum() / alpha.sum() == pytest.approx(39.6 + 30 * down, abs=0.15)
    rows, columns = np.nonzero(alpha > 0.5)
    left, up, right, down = EXTENTS[shape]
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert seen == pytest.approx((40.3 - 30 * left, 39.6 - 30 * up, 40.3 + 30 * right, 39.6 + 30 * down), abs=2)


def test_styles_are_closed_form():
    scene = Scene("light blue", (Item("square", "red", 4, 32.0, 32.0, 7.0),))
    plain = render(scene, 64)
    drawn = {style: render(Scene(scene.background, scene.items, style), 64) for style in ("grayscale", "inverted")}
    assert np.array_equal(drawn["inverted"], 255 - plain)
    assert np.array_equal(drawn["grayscale"], np.repeat(drawn["grayscale"][..., :1], 3, -1))
    assert abs(int(drawn["grayscale"][32, 32, 0]) - (0.299 * 215 + 0.587 * 40 + 0.114 * 40)) <= 1
    outline = styled(plain, "outline")
    assert set(np.unique(outline)) == {0, 255}
    assert outline[32, 32, 0] == outline[2, 2, 0] == 255
    assert (outline == 0).any(-1).sum() < 200  # a thin line round the square
    assert styled(plain, "plain") is plain


def test_the_scaled_world_is_the_same_world():
    for scene in scenes(8):
        large = render(scene, 192).reshape(64, 3, 64, 3, 3).mean((1, 3))
        assert np.abs(render(scene, 64) - large).mean() < 0.5


def test_small_and_odd_sizes_are_refused():
    for size in (32, 65):
        with pytest.raises(ValueError, match="even number of pixels >= 64"):
            render(scenes(1)[0], size)


def test_pixels_are_pinned():
    # A change of the renderer changes every data set: it must be meant.
    scene = Scene("cream", (Item("ring", "pink", 0, 11.5, 10.25, 6.5), Item("L", "blue", 8, 53.0, 52.5, 7.125)))
    assert int(render(scene, 64).astype(int).sum()) == 2742103
