"""Scores of edits: every step of the rubric is caused by a picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unipic2_evals.shapesbench.editing import EditScore, Truth, score_edit
from unipic2_evals.shapesbench.scenes import read_scene, see

BEFORE = (("red", 0), ("blue", 8))


@pytest.fixture
def score(world):
    """Score a picture, or a scene, as the edit from one scene to another."""

    def scored(result, after, before=BEFORE, style="plain", ground="white"):
        scenes = [world.scene(*before), world.scene(*after, style=style, ground=ground)]
        pictures = [world.draw(scene) for scene in scenes]
        shapes = {"scene": scenes[0], "target_scene": scenes[1]}
        truth = Truth(
            *pictures, *(read_scene(shapes, f, p) for f, p in zip(("scene", "target_scene"), pictures, strict=True))
        )
        pixels = result if isinstance(result, np.ndarray) else world.draw(world.scene(*result))
        return score_edit(pixels, see(pixels, world.detect([pixels])[0], 3), truth)

    return scored


ADDED = (*BEFORE, ("green", 4))
MOVED = (("red", 2), ("blue", 8))


@pytest.mark.parametrize(
    ("result", "after", "compliance"),
    [
        (ADDED, ADDED, 5),
        ((*BEFORE, ("green", 4, 9)), ADDED, 4),  # far too large
        ((("red", 0), ("green", 4)), ADDED, 3),  # the blue one is gone
        ((*BEFORE, ("green", 5)), ADDED, 1),  # at another place: nothing of what was asked
        (BEFORE, ADDED, 1),
        ((), ADDED, 1),
        (MOVED, MOVED, 5),
        ((("red", 1), ("blue", 8)), MOVED, 2),  # away, but not there
        ((("red", 0),), (("red", 0),), 5),  # removed
        (BEFORE, (("red", 0),), 1),
        ((("green", 4),), (("red", 0),), 1),  # another picture, although what should go is gone
        ((("green", 0), ("blue", 8)), (("green", 0), ("blue", 8)), 5),  # another colour
        ((("red", 0, 9), ("blue", 8)), (("red", 0, 9), ("blue", 8)), 5),  # bigger
        (BEFORE, (("red", 0, 9), ("blue", 8)), 1),
    ],
)
def test_compliance(score, result, after, compliance):
    found = score(result, after)
    assert found.compliance == compliance
    assert found.no_op == (result == BEFORE)


def test_background(score, world):
    done = world.draw(world.scene(*BEFORE, ground="gray"))
    assert score(done, BEFORE, ground="gray").compliance == 5
    assert score(BEFORE, BEFORE, ground="gray").compliance == 1
    less = world.draw(world.scene(("red", 0), ground="gray"))
    assert score(less, BEFORE, ground="gray").compliance == 3


def test_style(score, world):
    target = world.draw(world.scene(*BEFORE, style="inverted"))
    assert score(target, BEFORE, style="inverted") == EditScore(5, 5, 5, 5, False)
    source = score(BEFORE, BEFORE, style="inverted")
    assert (source.compliance, source.no_op) == (1, True)
    half = (0.7 * target.astype(float) + 0.3 * world.draw(world.scene(*BEFORE))).astype(np.uint8)
    assert score(half, BEFORE, style="inverted").compliance == 4
    other = world.draw(world.scene(("green", 4), style="inverted"))
    assert score(other, BEFORE, style="inverted").compliance == 1


@pytest.mark.parametrize(("noise", "preservation"), [(4, 5), (11, 4), (20, 3), (40, 2)])
def test_preservation_is_noise_outside_the_edit(score, world, noise, preservation):
    target = world.draw(world.scene(*ADDED)).astype(int)
    target[:22] -= np.where(np.arange(64) % 2, noise, noise)[None, :, None]
    target[43:] -= noise
    assert score(target.clip(0, 255).astype(np.uint8), ADDED).preservation == preservation


def test_rough_grounds_and_fragments_cost_points(score, world):
    target = world.draw(world.scene(*ADDED))
    rough = target.astype(int) - np.where(np.indices((64, 64)).sum(0) % 2, 30, 0)[..., None]
    assert score(rough.clip(0, 255).astype(np.uint8), ADDED).rendering == 3
    dirty = target.copy()
    dirty[28:36, 50:60] = (90, 20, 90)
    found = score(dirty, ADDED)
    assert (found.compliance, found.artifact) == (3, 3)


@given(st.tuples(*[st.integers(1, 5)] * 4))
def test_views(scores):
    found = EditScore(*scores, False)
    first, second, third, fourth = scores
    assert 1 <= found.item <= first
    semantics, quality, overall = found.gedit
    assert (semantics, quality) == (2 * min(first, second), 2 * min(third, fourth))
    assert overall <= (semantics + quality) / 2 + 1e-9


def test_unusable_truths_are_refused(score):
    with pytest.raises(ValueError, match="the same picture"):
        score(BEFORE, BEFORE)
    with pytest.raises(ValueError, match="pictures of one size"):
        score(np.zeros((32, 32, 3), np.uint8), ADDED)
