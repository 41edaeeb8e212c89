import pytest
from PIL import Image

from unipic2_unified.errors import RequestError
from unipic2_unified.requests import MAX_SEED, Request, build_requests, picture_digest

DEFAULTS = {
    "negative_prompts": None,
    "images_per_prompt": 1,
    "size": None,
    "steps": None,
    "guidance": None,
    "seed": 0,
}


def build(prompts, images=(None,), **options):
    return build_requests(prompts, images, **{**DEFAULTS, **options})


def test_rows_prompt_by_prompt():
    made = build(["a", "b"], negative_prompts=["x", "y"], images_per_prompt=2, seed=5, steps=3, guidance=1.5, size=16)
    assert [(each.prompt, each.negative_prompt, each.seed) for each in made] == [
        ("a", "x", 5),
        ("a", "x", 6),
        ("b", "y", 7),
        ("b", "y", 8),
    ]
    assert {(each.steps, each.guidance, each.size) for each in made} == {(3, 1.5, 16)}


def test_one_of_each_serves_all():
    one, two = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    assert [each.image for each in build("a", [one, two])] == [one, two]
    assert [each.image for each in build(["a", "b"], [one])] == [one, one]
    assert [each.prompt for each in build("a", [one, two])] == ["a", "a"]
    assert [each.negative_prompt for each in build(["a", "b"], negative_prompts="x")] == ["x", "x"]
    assert [each.negative_prompt for each in build(["a", "b"])] == ["", ""]


def test_seeds():
    assert [each.seed for each in build("a", images_per_prompt=2, seed=[9, 4])] == [9, 4]
    assert len({each.seed for each in build("a", images_per_prompt=8, seed=None)}) == 8
    assert build("a")[0].steps == 50
    assert build("a")[0].guidance == 3.5
    assert build("a", steps=1, guidance=0)[0].guidance == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "0 prompts and 1 images"),
        ({"prompts": "a", "images": []}, "1 prompts and 0 images"),
        ({"prompts": ["a", "b", "c"], "images": [None, None]}, "2 images for 3 rows"),
        ({"prompts": ["a", "b"], "negative_prompts": ["x"] * 3}, "3 negative prompts for 2 rows"),
        ({"prompts": "a", "seed": [1, 2]}, "2 seeds for 1 pictures"),
        ({"prompts": "a", "images_per_prompt": 0}, "images_per_prompt is 0"),
        ({"prompts": "a", "steps": 0}, "steps is 0"),
        ({"prompts": "a", "guidance": float("nan")}, "guidance is nan"),
        ({"prompts": "a", "guidance": -1.0}, "guidance is -1.0"),
        ({"prompts": "a", "seed": -1}, "seed is -1"),
        ({"prompts": "a", "seed": MAX_SEED + 1}, "seed is 9223372036854775808"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(RequestError, match=message):
        build(**options)


def test_a_digest_tells_pictures_apart():
    pictures = [Image.new("RGB", (4, 6)), Image.new("RGB", (6, 4)), Image.new("RGB", (4, 6), "red")]
    assert len({picture_digest(each) for each in pictures}) == 3
    assert picture_digest(pictures[0]) == picture_digest(pictures[0].copy())


def test_a_request_is_checked_when_it_is_made():
    with pytest.raises(RequestError, match="steps is -3"):
        Request("a", steps=-3)
