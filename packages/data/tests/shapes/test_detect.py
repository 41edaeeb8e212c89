import importlib.metadata
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.detect import Detected, Detection, nothing_else, same_scene, to_geneval
from unipic2_data.shapes.detect_hard import HardMaskDetector
from unipic2_data.shapes.detect_soft import SoftAlphaDetector
from unipic2_data.shapes.render import render_batch
from unipic2_data.shapes.scene import BACKGROUNDS, COLORS, SPLITS, Draws, Item, Scene
from unipic2_data.shapes.world import random_scene

DETECTORS = [HardMaskDetector(), SoftAlphaDetector()]
both = pytest.mark.parametrize("detector", DETECTORS, ids=["A", "B"])
sizes = pytest.mark.parametrize("size", [32, 128])


@lru_cache
def scenes(count=2000):
    return [random_scene(Draws(keyed_rng(1, str(n))), SPLITS[n % 4]) for n in range(count)]


@lru_cache
def pictures(count, size):
    return render_batch(scenes()[:count], size)


def exact(detector, images, truth):
    return np.mean(
        [same_scene(found, scene) for found, scene in zip(detector.detect_batch(images), truth, strict=True)]
    )


def single(size, count=60):
    """Pictures of one object, their scenes and backgrounds."""
    some = [scene for scene in scenes() if len(scene.items) == 1][:count]
    background = np.array([BACKGROUNDS[scene.background] for scene in some], np.uint8)[:, None, None]
    return render_batch(some, size), some, background


@both
@pytest.mark.parametrize(("size", "count"), [(32, 2000), (128, 150), (64, 150), (48, 150)])
def test_reads_rendered_scenes(detector, size, count):
    assert exact(detector, pictures(count, size), scenes()[:count]) >= 0.995


@both
def test_bears_slight_noise_and_blur(detector):
    images, truth = pictures(400, 32), scenes()[:400]
    noise = np.random.default_rng(0).normal(0, 16, images.shape)
    assert exact(detector, np.clip(images + noise, 0, 255).astype(np.uint8), truth) >= 0.98
    blurred = ndimage.gaussian_filter(images.astype(np.float32), (0, 0.6, 0.6, 0))
    assert exact(detector, blurred.astype(np.uint8), truth) >= 0.98


@both
@sizes
def test_boxes_are_inclusive_and_tight(detector, size):
    images, some, _ = single(size)
    for image, scene in zip(images, some, strict=True):
        (found,) = detector.detect(image)
        item = scene.items[0]
        expected = np.array([item.x - item.r, item.y - item.r, item.x + item.r, item.y + item.r]) * size / 32
        assert np.abs(np.add(found.box, (0, 0, 1, 1)) - expected).max() <= 0.2 * item.r * size / 32 + 1
        assert found.score >= 0.75


@both
@sizes
def test_blank_pictures_are_empty(detector, size):
    images = np.stack([np.full((size, size, 3), color, np.uint8) for color in BACKGROUNDS.values()])
    for found, color in zip(detector.detect_batch(images), BACKGROUNDS.values(), strict=True):
        assert found.objects == ()
        assert not found.unexplained
        assert np.allclose(found.background, color, atol=1)


@both
@sizes
@pytest.mark.parametrize("sideways", [False, True])
def test_half_an_object_is_no_object(detector, size, sideways):
    images, some, background = single(size)
    for image, scene, color in zip(images, some, background, strict=True):
        item = scene.items[0]
        if sideways:
            image[:, : round(item.x * size / 32)] = color
        else:
            image[: round(item.y * size / 32)] = color
    found = detector.detect_batch(images)
    assert all(one.unexplained and not one.objects for one in found)


@both
@sizes
def test_ghosts_and_foreign_colours_are_unexplained(detector, size):
    images, _, background = single(size)
    ghosts = (background + 0.4 * (images.astype(float) - background)).astype(np.uint8)
    orange = images.copy()
    orange[np.abs(images.astype(int) - background).sum(-1) > 60] = (245, 130, 30)
    for wrong in (ghosts, orange):
        assert all(one.unexplained and not one.objects for one in detector.detect_batch(wrong))


@both
@sizes
def test_an_object_of_two_colours_is_unexplained(detector, size):
    images, some, background = single(size)
    for image, scene, color in zip(images, some, background, strict=True):
        item = scene.items[0]
        mask = np.abs(image.astype(int) - color).sum(-1) > 60
        mask[:, : round(item.x * size / 32)] = False
        image[mask] = COLORS["blue" if item.color in {"red", "black"} else "red"]
    assert np.mean([one.unexplained for one in detector.detect_batch(images)]) >= 0.95


@both
def test_random_pixels_are_unexplained(detector):
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    assert all(one.unexplained for one in detector.detect_batch(images))


@both
def test_a_missing_and_an_extra_object_break_the_scene(detector):
    truth = [scene for scene in scenes() if len(scene.items) == 2][:50]
    less = render_batch([Scene(scene.background, scene.items[:1]) for scene in truth], 32)
    assert exact(detector, less, truth) == 0
    assert exact(detector, render_batch(truth, 32), [Scene(s.background, s.items[:1]) for s in truth]) == 0


@both
def test_a_picture_is_judged_alone(detector):
    images = pictures(100, 32)
    together = detector.detect_batch(images)
    assert [detector.detect_batch(image[None])[0] for image in images[:20]] == together[:20]
    assert detector.detect(images[3]) == list(together[3].objects)


@both
def test_wrong_arrays(detector):
    with pytest.raises(ValueError, match="square pictures"):
        detector.detect_batch(np.zeros((2, 32, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="square pictures"):
        detector.detect_batch(np.zeros((2, 32, 32, 3), np.float32))


def detection(*objects, background=(245, 245, 245), unexplained=False):
    return Detection(tuple(objects), background, unexplained)


RED = Detected("circle", "red", 0, (3, 3, 12, 12), 0.9)
BLUE = Detected("circle", "blue", 1, (19, 3, 28, 12), 0.95)


def test_same_scene_is_strict():
    scene = Scene("white", (Item("circle", "red", 0, 8, 8, 5),))
    assert same_scene(detection(RED), scene)
    assert same_scene(detection(RED, background=(240, 240, 235)), scene)
    for wrong in (
        detection(),
        detection(RED, BLUE),
        detection(BLUE),
        detection(RED, RED),
        detection(RED, unexplained=True),
        detection(RED, background=(200, 200, 200)),
    ):
        assert not same_scene(wrong, scene)


def test_nothing_else():
    two = {"include": [{"class": "circle", "count": 2}]}
    assert nothing_else(detection(RED, BLUE), two)
    assert not nothing_else(detection(RED), two)
    assert not nothing_else(detection(RED, BLUE, unexplained=True), two)
    pair = {"include": [{"class": "circle", "count": 1}, {"class": "square", "count": 1}]}
    assert not nothing_else(detection(RED, BLUE), pair)


def test_geneval_form_is_sorted():
    objects, colors = to_geneval(detection(RED, BLUE))
    assert objects == {"circle": [[19, 3, 28, 12, 0.95], [3, 3, 12, 12, 0.9]]}
    assert colors == {"circle": ["blue", "red"]}


def test_entry_points():
    try:
        importlib.metadata.distribution("unipic2-data")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    points = {point.name: point for point in importlib.metadata.entry_points(group="unipic2.detectors")}
    assert points["shapes-a"].load() is HardMaskDetector
    assert points["shapes-b"].load() is SoftAlphaDetector
