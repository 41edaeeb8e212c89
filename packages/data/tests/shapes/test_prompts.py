from collections import Counter

import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.edits import EDIT_PHRASINGS, EDITS, HELD_OUT_EDIT_PHRASING, draw_edit
from unipic2_data.shapes.grammar import FACTS, example_readings, read_edit, read_prompt, vocabulary
from unipic2_data.shapes.prompts import HELD_OUT_PHRASING, PHRASINGS, PROMPTS, TAGS, scene_caption, scene_for
from unipic2_data.shapes.scene import CELLS, COLORS, HELD_OUT_PAIRS, SPLITS, Draws
from unipic2_data.shapes.world import random_scene

ALL = [prompt for tags in PROMPTS.values() for prompts in tags.values() for prompt in prompts]


def find(text):
    return next(prompt for prompt in ALL if prompt.text == text)


def test_strings_are_unique_and_each_split_has_every_tag():
    assert len({prompt.text for prompt in ALL}) == len(ALL)
    for split in SPLITS:
        assert set(PROMPTS[split]) == set(TAGS)
        assert all(PROMPTS[split].values())
    assert sum(map(len, PROMPTS["test"].values())) >= 400


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        ("a photo of a circle", {"tag": "single_object", "include": [{"class": "circle", "count": 1}]}),
        (
            "a square and a cross",
            {"tag": "two_object", "include": [{"class": "square", "count": 1}, {"class": "cross", "count": 1}]},
        ),
        (
            "there are two crosses",
            {
                "tag": "counting",
                "include": [{"class": "cross", "count": 2}],
                "exclude": [{"class": "cross", "count": 3}],
            },
        ),
        ("a red circle", {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}]}),
        (
            "a circle left of a square",
            {
                "tag": "position",
                "include": [
                    {"class": "square", "count": 1},
                    {"class": "circle", "count": 1, "position": ["left of", 0]},
                ],
            },
        ),
        (
            "a red circle and a blue square",
            {
                "tag": "color_attr",
                "include": [
                    {"class": "circle", "count": 1, "color": "red"},
                    {"class": "square", "count": 1, "color": "blue"},
                ],
            },
        ),
    ],
)
def test_metadata_follows_geneval(text, metadata):
    assert find(text).metadata == {**metadata, "prompt": text}


def test_held_out_pairs_and_phrasings_stay_out():
    words = HELD_OUT_PHRASING.split("{", maxsplit=1)[0]
    for prompt in ALL:
        pair = any((color, shape) in HELD_OUT_PAIRS for shape, color in prompt.parts)
        assert (prompt.split == "heldout") == (pair or prompt.text.startswith(words))
        assert (prompt.axis == "pair") == pair
    assert HELD_OUT_PHRASING not in PHRASINGS
    for edit in EDITS:
        assert HELD_OUT_EDIT_PHRASING[edit] not in EDIT_PHRASINGS[edit]


def relation_of(a, b):
    """GenEval's rule, for boxes x1, y1, x2, y2: the relations of a to b."""
    import numpy as np

    offset = np.array([(a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2])
    size = np.array([a[2] - a[0] + b[2] - b[0], a[3] - a[1] + b[3] - b[1]])
    revised = np.maximum(np.abs(offset) - 0.1 * size, 0) * np.sign(offset)
    x, y = revised / np.linalg.norm(offset)
    found = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in found.items() if holds}


def box(item):
    return item.x - item.r, item.y - item.r, item.x + item.r, item.y + item.r


def test_scenes_show_exactly_what_the_prompt_names():
    for number, prompt in enumerate(ALL[::7]):
        scene = scene_for(prompt, prompt.split, Draws(keyed_rng(0, str(number))))
        if scene is None:
            continue
        shown = Counter(item.shape for item in scene.items)
        assert shown == Counter(shape for shape, _ in prompt.parts)
        for shape, color in prompt.parts:
            assert color is None or any((i.shape, i.color) == (shape, color) for i in scene.items)
        if prompt.relation:
            first = next(item for item in scene.items if item.shape == prompt.parts[0][0])
            second = next(item for item in scene.items if item is not first)
            assert relation_of(box(first), box(second)) == {prompt.relation}


def test_unnamed_things_vary():
    scenes = [scene_for(find("a photo of a circle"), "train", Draws(keyed_rng(0, str(n)))) for n in range(200)]
    assert len({scene.items[0].color for scene in scenes}) == 5  # purple circles are held out
    assert len({scene.items[0].cell for scene in scenes}) == 4
    assert len({scene.background for scene in scenes}) == 5


def test_captions_name_everything():
    for number in range(50):
        draws = Draws(keyed_rng(0, str(number)))
        scene = random_scene(draws, "train")
        prompt = scene_caption(scene, draws)
        for item in scene.items:
            assert item.color in prompt.text
            assert CELLS[item.cell] in prompt.text
        assert prompt.metadata["tag"] == "scene"


def facts(reading):
    pairs = zip(FACTS.items(), reading.facts, strict=True)
    return {name: values[index] for (name, values), index in pairs if values[index] is not None}


def test_what_a_prompt_says():
    assert facts(read_prompt(find("a photo of a circle"))) == {"task": "text-to-image", "shape 1": "circle"}
    assert facts(read_prompt(find("a circle left of a square"))) == {
        "task": "text-to-image",
        "relation": "left of",
        "shape 1": "circle",
        "shape 2": "square",
    }


def test_a_reading_says_what_the_words_say():
    """Every colour, shape and cell of the text is a fact, and no other is."""
    for reading in example_readings(800):
        said = [value for name, value in facts(reading).items() if name.split()[0] in {"shape", "color", "cell"}]
        for value in said:
            assert value.rstrip("es") in reading.text, reading
        words = reading.text.replace(",", "").split()
        colors = sorted(value for value in said if value in COLORS)
        assert colors == sorted(word for word in words if word in COLORS), reading
        assert facts(reading)["task"] in {"text-to-image", *EDITS}


def test_what_an_instruction_says():
    reading = read_edit(draw_edit("recolour", "train", Draws(keyed_rng(0, "recolour"))))
    said = facts(reading)
    assert said["task"] == "recolour"
    assert said["color 2"] in reading.text.split()[-1]
    assert said["shape 1"] in reading.text
    assert "shape 2" not in said


def test_every_text_is_short_and_in_the_vocabulary():
    words = set(vocabulary())
    texts = [*(reading.text for reading in example_readings(600)), *(prompt.text for prompt in ALL)]
    assert len(set(texts)) > 1000
    for text in texts:
        assert len(text.replace(",", " ,").split()) <= 10  # 12 tokens with start and end
        assert set(text.replace(",", "").split()) <= words
    assert len(words) < 80
