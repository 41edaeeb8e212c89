from collections import Counter

import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.full.prompts import (
    AXIS_TAGS,
    HELD_OUT_PHRASINGS,
    HELD_OUT_TRIPLES,
    TAGS,
    draw_prompt,
    scene_caption,
    scene_for,
)
from unipic2_data.shapes.full.scene import HELD_OUT_COUNTS, HELD_OUT_PAIRS, RELATIONS, SHAPES, related_cells
from unipic2_data.shapes.full.wording import plural, with_article
from unipic2_data.shapes.scene import Draws

KINDS = [(split, None, tag) for split in ("train", "validation", "test") for tag in TAGS]
KINDS += [("heldout", axis, tag) for axis, tags in AXIS_TAGS.items() for tag in tags]


def drawn(split, axis, tag, count=8):
    draws = Draws(keyed_rng(0, f"{split} {axis} {tag}"))
    prompts = [draw_prompt(tag, split, draws, axis) for _ in range(count)]
    found = [(prompt, scene_for(prompt, split, draws)) for prompt in prompts]
    return [(prompt, scene) for prompt, scene in found if scene is not None]


@pytest.mark.parametrize(("split", "axis", "tag"), KINDS)
def test_scenes_show_exactly_what_the_prompt_names(split, axis, tag):
    for prompt, scene in drawn(split, axis, tag):
        assert prompt.split == scene.split == split
        shown = Counter(item.shape for item in scene.items)
        assert shown == Counter(shape for shape, _ in prompt.parts)
        for shape, color in prompt.parts:
            assert color is None or any((i.shape, i.color) == (shape, color) for i in scene.items)
        clauses = prompt.metadata["include"]
        assert sum(clause["count"] for clause in clauses) == len(scene.items)
        if prompt.relation:
            first = next(item for item in scene.items if item.shape == prompt.parts[0][0])
            (second,) = (item for item in scene.items if item is not first)
            assert related_cells(prompt.relation, first.cell, second.cell)
            assert clauses[1]["position"] == [prompt.relation, 0]
            assert clauses[0]["class"] == second.shape


@pytest.mark.parametrize(("split", "axis", "tag"), KINDS)
def test_what_is_held_out_is_in_the_held_out_prompts_alone(split, axis, tag):
    for prompt, scene in drawn(split, axis, tag):
        pairs = {(color, shape) for shape, color in prompt.parts} & HELD_OUT_PAIRS
        triple = prompt.relation and (prompt.parts[0][0], prompt.relation, prompt.parts[1][0])
        assert bool(pairs) == (axis == "pair")
        assert (triple in HELD_OUT_TRIPLES) == (axis == "relation")
        many_of_one = tag == "counting" and (prompt.parts[0][0], len(prompt.parts)) in HELD_OUT_COUNTS
        assert many_of_one == (axis == "count")
        assert (len(scene.items) >= 5) == (axis == "many")
        new_words = any(prompt.text.startswith(p.split("{")[0] or "\0") for p in HELD_OUT_PHRASINGS)
        assert (new_words or prompt.text.endswith("in a photo")) == (axis == "phrasing")


def test_a_triple_and_its_reflection_are_never_both_held_out():
    reflected = dict(zip(RELATIONS, ("right of", "left of", "below", "above"), strict=True))
    assert len(HELD_OUT_TRIPLES) == pytest.approx(8 * 7 * 4 / 8, abs=4)
    for first, relation, second in HELD_OUT_TRIPLES:
        assert (second, reflected[relation], first) not in HELD_OUT_TRIPLES


def test_counting_excludes_one_more():
    prompt, _ = drawn("train", None, "counting")[0]
    shape, count = prompt.parts[0][0], len(prompt.parts)
    assert prompt.metadata["exclude"] == [{"class": shape, "count": count + 1}]
    assert plural(shape) in prompt.text


def test_captions_name_everything():
    draws = Draws(keyed_rng(0, "captions"))
    for _ in range(20):
        prompt, scene = scene_caption(draws)
        assert prompt.split == scene.split == "train"
        assert prompt.text.count(" at the ") == len(scene.items)
        for item in scene.items:
            assert with_article(f"{item.color} {item.shape}") in prompt.text


def test_articles_and_plurals():
    assert [with_article(word) for word in ("ring", "orange bar", "L", "white L")] == [
        "a ring",
        "an orange bar",
        "an L",
        "a white L",
    ]
    assert [plural(shape) for shape in SHAPES][3::4] == ["crosses", "Ls"]
