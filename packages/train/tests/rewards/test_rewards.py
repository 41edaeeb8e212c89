"""Each reward on pictures whose score is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unipic2_data.shapes.detect import Detection
from unipic2_data.shapes.render import render_batch
from unipic2_data.shapes.scene import Item, Scene
from unipic2_evals.answers import JudgeId
from unipic2_evals.local import LocalOptions
from unipic2_evals.protocols import load_detector
from unipic2_train.rewards.base import Reward, RewardRequest, scores_of
from unipic2_train.rewards.brightness import BrightnessReward
from unipic2_train.rewards.geneval import GenEvalReward, soft_score
from unipic2_train.rewards.preservation import PreservationReward
from unipic2_train.rewards.regions import as_unit, changed_region, mean_square, psnr, ssim_map
from unipic2_train.rewards.shapes import ShapesReward

CIRCLE, SQUARE = Item("circle", "red", 0, 8, 8, 6), Item("square", "blue", 3, 24, 24, 6)
CROSS = Item("cross", "black", 1, 24, 8, 6)
TWO = Scene("white", (CIRCLE, SQUARE))
BOX = [0.0, 0.0, 10.0, 10.0, 0.9]


def pictures(*scenes):
    return torch.from_numpy(render_batch(list(scenes), 32))


def edit(source, target, *made):
    """Return a request for edits from one scene to another."""
    count = len(made)
    meta = {"shapes": {"scene": source.to_json(), "target_scene": target.to_json()}}
    return RewardRequest(
        "edit",
        pictures(*made),
        ["an instruction"] * count,
        ["row"] * count,
        [meta] * count,
        pictures(source).expand(count, -1, -1, -1),
        pictures(target).expand(count, -1, -1, -1),
    )


def prompted(metadata, *made):
    count = len(made)
    return RewardRequest(
        "t2i", pictures(*made), ["a prompt"] * count, ["row"] * count, [{"metadata": metadata}] * count
    )


RECOLOURED = Scene("white", (Item("circle", "green", 0, 8, 8, 6), SQUARE))


@pytest.mark.parametrize("detector", ["a", "b"])
def test_an_edit_must_comply_and_preserve(detector):
    spoilt = Scene("white", (Item("circle", "green", 0, 8, 8, 6), Item("cross", "yellow", 3, 24, 24, 6)))
    other_background = Scene("sky", RECOLOURED.items)
    made = (RECOLOURED, TWO, spoilt, other_background)
    right, nothing, too_much, repainted = ShapesReward(detector)(edit(TWO, RECOLOURED, *made)).tolist()
    assert right == 1
    assert nothing == 0, "a copy is worth nothing"
    assert 0 < too_much < 1
    assert too_much < repainted < 1


@pytest.mark.parametrize(
    ("target", "half"),
    [
        (Scene("white", (CIRCLE, SQUARE, CROSS)), (CIRCLE, SQUARE, replace(CROSS, color="red"))),
        (Scene("white", (CIRCLE.moved_to(1), SQUARE)), (CIRCLE, CIRCLE.moved_to(1), SQUARE)),
        (Scene("white", (SQUARE,)), None),
        (Scene("white", (Item("cross", "red", 0, 8, 8, 6), SQUARE)), None),
    ],
    ids=["add", "move", "remove", "replace"],
)
def test_every_type_of_edit(target, half):
    made = [target, TWO] + ([Scene("white", half)] if half else [])
    right, nothing, *partial = ShapesReward()(edit(TWO, target, *made)).tolist()
    assert (right, nothing) == (1, 0)
    assert all(0 < score < 1 for score in partial)


def test_prompts_in_the_shapes_world():
    metadata = {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a red circle"}
    alone, extra, wrong = Scene("white", (CIRCLE,)), TWO, Scene("white", (Item("circle", "blue", 0, 8, 8, 6),))
    scores = ShapesReward()(prompted(metadata, alone, extra, wrong)).tolist()
    assert scores == [1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("objects", "colors", "include", "expected"),
    [
        ({"cat": [BOX]}, {}, [{"class": "cat", "count": 1}], 1),
        ({}, {}, [{"class": "cat", "count": 1}], 0),
        ({"cat": [BOX] * 3}, {}, [{"class": "cat", "count": 4}], 0.75),
        ({"cat": [BOX] * 3}, {}, [{"class": "cat", "count": 1}], 0),
        ({"cat": [BOX]}, {"cat": ["red"]}, [{"class": "cat", "count": 1, "color": "blue"}], 0.5),
        ({"cat": [BOX] * 2}, {"cat": ["red"] * 2}, [{"class": "cat", "count": 1, "color": "red"}], 0),
        ({"cat": [BOX] * 2}, {"cat": ["red", "blue"]}, [{"class": "cat", "count": 2, "color": "red"}], 0.75),
    ],
)
def test_soft_geneval(objects, colors, include, expected):
    assert soft_score(objects, colors, {"include": include}) == pytest.approx(expected)


@pytest.mark.parametrize(("left", "expected"), [(0.0, 1.0), (90.0, 2 / 3)])
def test_soft_geneval_of_a_position(left, expected):
    objects = {"dog": [[40.0, 0.0, 50.0, 10.0, 0.9]], "cat": [[left, 0.0, left + 10, 10.0, 0.9]]}
    include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}]
    assert soft_score(objects, {}, {"include": include}) == pytest.approx(expected)
    assert soft_score({"cat": objects["cat"]}, {}, {"include": include}) == pytest.approx(1 / 3)


def test_geneval_over_an_installed_detector():
    metadata = {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a red circle"}
    request = prompted(metadata, TWO, Scene("white", (SQUARE,)))
    assert GenEvalReward("shapes-a", official=True)(request).tolist() == [1, 0]
    assert GenEvalReward("shapes-b")(request).tolist() == [1, 0]
    with pytest.raises(ValueError, match="no detector 'mask2former' is installed"):
        GenEvalReward("mask2former")
    request.meta = [{}, {}]
    with pytest.raises(ValueError, match="no GenEval metadata"):
        GenEvalReward("shapes-a")(request)


def test_geneval_over_checkpoints_loads_them_when_they_are_needed(monkeypatch):
    asked = []

    def load(options):
        asked.append(options)
        return load_detector("shapes-a"), JudgeId("m2f + clip", "1 + 2")

    monkeypatch.setattr("unipic2_train.rewards.geneval.local_detector", load)
    reward = GenEvalReward(LocalOptions("m2f", "clip"), official=True)
    assert not asked, "a run's export needs no detector"
    assert reward.prepare() == ("m2f + clip", "1 + 2")
    metadata = {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a red circle"}
    assert reward(prompted(metadata, TWO, Scene("white", (SQUARE,)))).tolist() == [1, 0]
    assert asked == [LocalOptions("m2f", "clip")]
    assert GenEvalReward("shapes-a").prepare().id == "shapes-a"


@pytest.mark.parametrize("measure", ["psnr", "ssim"])
def test_preservation_looks_outside_the_edit_alone(measure):
    elsewhere = Scene("white", (CIRCLE, Item("cross", "yellow", 3, 24, 24, 6)))
    scores = PreservationReward(measure)(edit(TWO, RECOLOURED, RECOLOURED, TWO, elsewhere)).tolist()
    assert scores[0] == scores[1] == 1
    assert scores[2] < 0.9


def test_preservation_of_nothing_is_no_score():
    everything = RewardRequest("edit", *_one_of("black", "white"))
    assert scores_of("preservation", PreservationReward("psnr"), everything).isnan().all()


def _one_of(source, target):
    shades = {"black": torch.zeros(1, 32, 32, 3), "white": torch.full((1, 32, 32, 3), 255)}
    return shades[target].byte(), ["x"], ["row"], [{}], shades[source].byte(), shades[target].byte()


def test_structural_similarity_is_scikit_image_s():
    skimage = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (1, 40, 36, 3), dtype=np.uint8)
    other = np.clip(one + rng.normal(0, 30, one.shape), 0, 255).astype(np.uint8)
    a, b = (as_unit(torch.from_numpy(values)) for values in (one, other))
    _, expected = skimage.structural_similarity(
        a[0].permute(1, 2, 0).numpy(), b[0].permute(1, 2, 0).numpy(), data_range=1, channel_axis=-1, full=True
    )
    inner = slice(4, -4)  # the edges are padded in another way
    np.testing.assert_allclose(
        ssim_map(a, b)[0, inner, inner].numpy(), expected.mean(-1)[inner, inner], rtol=0, atol=1e-5
    )
    everywhere = torch.ones(1, 40, 36, dtype=torch.bool)
    expected = skimage.peak_signal_noise_ratio(a[0].numpy(), b[0].numpy(), data_range=1)
    assert psnr(mean_square(a, b, everywhere)).item() == pytest.approx(expected, abs=1e-4)


def test_the_region_of_an_edit():
    region = changed_region(as_unit(pictures(TWO)), as_unit(pictures(RECOLOURED)))[0]
    assert region[8, 8]
    assert not region[16:].any()
    assert not region[:, 16:].any()


def test_scores_are_checked_and_what_is_no_number_is_no_score():
    class Odd(Reward):
        def __init__(self, values):
            self.values = values

        def __call__(self, request):
            return torch.tensor(self.values)

    request = prompted({}, TWO, TWO)
    assert scores_of("odd", Odd([1.0, float("inf")]), request).isnan().tolist() == [False, True]
    with pytest.raises(ValueError, match=r"'odd' returned scores of shape \(3,\) for 2"):
        scores_of("odd", Odd([1.0] * 3), request)


def test_brightness():
    dark, light = (torch.full((1, 4, 4, 3), value, dtype=torch.uint8) for value in (0, 255))
    request = RewardRequest("t2i", torch.cat((dark, light)), ["x"] * 2, ["row"] * 2, [{}] * 2)
    assert BrightnessReward()(request).tolist() == [0, 1]


def test_a_detection_of_nothing_scores_nothing():
    empty = Detection((), (245.0, 245.0, 245.0), True)
    from unipic2_train.rewards.shapes import edit_score

    meta = {"shapes": {"scene": TWO.to_json(), "target_scene": RECOLOURED.to_json()}}
    assert edit_score(empty, meta) == 0


def test_rows_that_could_not_be_read_are_not_scored():
    changed = Scene("white", (replace(CIRCLE, color="green"), SQUARE))
    request = edit(TWO, changed, changed, TWO, changed)
    whole = scores_of("shapes", ShapesReward(), request)
    request.meta[1] = {}
    request.readable = torch.tensor([True, False, True])
    scores = scores_of("shapes", ShapesReward(), request)
    assert scores.isnan().tolist() == [False, True, False]
    assert torch.equal(scores[[0, 2]], whole[[0, 2]])
    request.readable = torch.zeros(3, dtype=torch.bool)
    assert scores_of("shapes", ShapesReward(), request).isnan().all()
