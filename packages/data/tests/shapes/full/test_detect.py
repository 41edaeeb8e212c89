import importlib.metadata
from functools import lru_cache

import numpy as np
import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes import detect_hard, detect_soft
from unipic2_data.shapes.detect import same_scene
from unipic2_data.shapes.full.drawing import random_scene
from unipic2_data.shapes.full.render import render_batch
from unipic2_data.shapes.full.scene import BACKGROUNDS, Item, Scene
from unipic2_data.shapes.scene import Draws

DETECTORS = [detect_hard.full_detector(), detect_soft.full_detector()]
both = pytest.mark.parametrize("detector", DETECTORS, ids=["A", "B"])


@lru_cache
def scenes(count=300):
    draws = Draws(keyed_rng(1, "detect"))
    return [random_scene(draws, "many" if n % 3 == 0 else None) for n in range(count)]


@lru_cache
def pictures(size=64):
    return render_batch(scenes(), size)


def exact(detector, images, truth):
    found = detector.detect_batch(images)
    return np.mean([same_scene(one, scene, BACKGROUNDS) for one, scene in zip(found, truth, strict=True)])


def noisy(images, deviation):
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return np.clip(images + noise + 0.5, 0, 255).astype(np.uint8)


@both
def test_reads_rendered_scenes(detector):
    assert exact(detector, pictures(), scenes()) >= 0.99


def test_b_bears_noise_of_16():
    assert exact(DETECTORS[1], noisy(pictures(), 16), scenes()) >= 0.99


def test_a_bears_slight_noise():
    assert exact(DETECTORS[0], noisy(pictures(), 8), scenes()) >= 0.98


@both
@pytest.mark.parametrize("size", [96, 128])
def test_larger_pictures(detector, size):
    some = scenes()[:30]
    assert exact(detector, render_batch(some, size), some) >= 0.96


@both
def test_objects_that_were_made_smaller_or_bigger(detector):
    shapes = ("circle", "square", "triangle", "cross", "diamond", "ring", "bar", "L")
    truth = [
        Scene("white", (Item(shape, "red", 4, 32.0 + dx, 32.25, r),))
        for shape in shapes
        for r in (5.0, 9.0)
        for dx in (0.0, 0.375)
    ]
    assert exact(detector, render_batch(truth, 64), truth) >= 0.96


@both
def test_blank_and_random_pictures(detector):
    blank = np.stack([np.full((64, 64, 3), color, np.uint8) for color in BACKGROUNDS.values()])
    assert all(not one.objects and not one.unexplained for one in detector.detect_batch(blank))
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    assert all(one.unexplained for one in detector.detect_batch(noise))


@both
def test_a_missing_object_breaks_the_scene(detector):
    truth = [scene for scene in scenes() if len(scene.items) > 1][:40]
    less = [Scene(scene.background, scene.items[1:]) for scene in truth]
    assert exact(detector, render_batch(less, 64), truth) == 0


def test_ghosts_are_unexplained():
    some = scenes()[:60]
    background = np.array([BACKGROUNDS[scene.background] for scene in some], float)[:, None, None]
    ghosts = (background + 0.65 * (pictures()[:60] - background)).astype(np.uint8)
    assert exact(DETECTORS[1], ghosts, some) == 0


def test_a_picture_is_judged_alone():
    for detector in DETECTORS:
        together = detector.detect_batch(pictures()[:20])
        assert [detector.detect_batch(image[None])[0] for image in pictures()[:20]] == together


def test_entry_points():
    try:
        importlib.metadata.distribution("unipic2-data")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    points = {point.name: point for point in importlib.metadata.entry_points(group="unipic2.detectors")}
    assert isinstance(points["shapes-full-a"].load()(), detect_hard.HardMaskDetector)
    assert isinstance(points["shapes-full-b"].load()(), detect_soft.SoftAlphaDetector)
