"""The folder: what a sampler is told, what it copies, what is asked."""

import json

import numpy as np
import pytest

from unipic2_evals.pictures import Picture
from unipic2_evals.shapesbench import (
    copy_suite,
    output_path,
    questions,
    read_suite,
    write_reconstructions,
    write_replies,
)


def test_paths():
    paths = output_path("edit", "k-1", 3)
    assert paths["image"] == "edit/k-1/00003.png"
    assert paths["replies"] == "edit/k-1/replies.json"
    for wrong in (("video", "k"), ("edit", "a/b"), ("edit", "..")):
        with pytest.raises(ValueError, match="expected"):
            output_path(*wrong)


def test_copies_say_when_they_are_whole(world, tmp_path):
    suite = world.suite(tmp_path / "suite")
    items = copy_suite(suite, tmp_path / "out")
    assert [item.kind for item in items] == ["t2i", "t2i", "edit", "edit", "edit", "qa"]
    assert items[2].text == "move the red square to the top right"
    assert read_suite(tmp_path / "out") == items
    assert (tmp_path / "out/edit/item-2/source.png").is_file()
    assert copy_suite(suite, tmp_path / "out") == items  # again: nothing happens
    with (suite / "suite.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="choose another folder"):
        copy_suite(suite, tmp_path / "out")


def test_unusable_suites_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match=r"suite\.jsonl: missing"):
        read_suite(tmp_path)
    suite = world.suite(tmp_path / "suite") / "suite.jsonl"
    lines = suite.read_text().splitlines()
    for text, message in (
        ("", "no items"),
        (lines[0] + "\n" + lines[0], "occurs twice"),
        (json.dumps({"key": "a", "kind": "t2i"}), "no 'captions'"),
    ):
        suite.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_suite(suite.parent)


def test_questions_are_asked_in_all_rotations(world, tmp_path):
    item = read_suite(world.suite(tmp_path / "suite"))[-1]
    asked = questions(item)
    assert asked[0].startswith("Question: What color is the square?\nOptions:\nA. red\nB. blue\nC. green\nD. black\n")
    assert asked[1].splitlines()[2:6] == ["A. blue", "B. green", "C. black", "D. red"]
    assert json.loads(write_replies(tmp_path / "suite", item, list("BACD")).read_text()) == list("BACD")


def test_reconstructions(world, tmp_path):
    suite = world.suite(tmp_path / "suite")
    assert write_reconstructions(suite, lambda images: [255 - image for image in images], batch=2) == 5
    target, vae = (Picture(suite / "edit/item-3" / name).pixels() for name in ("target.png", "vae.png"))
    assert np.array_equal(vae, 255 - target)
    assert write_reconstructions(suite, lambda images: images) == 0
