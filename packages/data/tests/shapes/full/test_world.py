import hashlib
import io
import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from unipic2_data.errors import DataError
from unipic2_data.manifest import Manifest
from unipic2_data.sample import KINDS
from unipic2_data.scan import scan
from unipic2_data.shapes.full.edits import AXIS_EDITS, EDITS
from unipic2_data.shapes.full.prompts import AXIS_TAGS, TAGS
from unipic2_data.shapes.full.questions import AXIS_QUESTIONS, DISCIPLINES
from unipic2_data.shapes.full.render import render
from unipic2_data.shapes.full.scene import Scene
from unipic2_data.shapes.full.world import prompt_list, write_full_world
from unipic2_data.shapes.suite import write_suite
from unipic2_data.shapes.world import ShapesConfig

COUNTS = {
    "train": {"t2i": 60, "edit": 54, "qa": 36},
    "test": {"t2i": 30, "edit": 18, "qa": 12},
    "heldout": {"t2i": 20, "edit": 20, "qa": 20},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_full_world(tmp_path_factory.mktemp("full") / "world", ShapesConfig(64, 0, COUNTS))


def samples(data, split, kind):
    return [found.sample for shard in data.shards_of(split, kind) for found in scan(data, shard)]


def digests(root):
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.*")}


def test_counts_and_kinds(data):
    assert data.counts == COUNTS
    assert data.generator == {"command": "shapes", "world": "full", "size": 64, "seed": 0, "samples": COUNTS}
    assert set(COUNTS["train"]) < set(KINDS)
    data.verify()


def test_same_seed_same_bytes_with_any_workers(tmp_path):
    small = {"train": {"t2i": 12, "edit": 9, "qa": 6}, "heldout": {"t2i": 5, "edit": 5}}
    first = write_full_world(tmp_path / "a", ShapesConfig(64, 3, small))
    second = write_full_world(tmp_path / "b", ShapesConfig(64, 3, small), workers=2)
    assert digests(first.root) == digests(second.root)
    assert first.digest != write_full_world(tmp_path / "c", ShapesConfig(64, 4, small)).digest


def test_samples_carry_their_truth(data):
    for split, kinds in COUNTS.items():
        for kind in kinds:
            for sample in samples(data, split, kind):
                shapes = sample.meta["shapes"]
                images = (
                    [sample.target] if kind == "t2i" else [*sample.references, *([sample.target] * (kind == "edit"))]
                )
                fields = ["scene", "target_scene"][: len(images)]
                assert shapes["split"] == split
                for image, field in zip(images, fields, strict=True):
                    pixels = np.asarray(Image.open(io.BytesIO(image.data)))
                    assert np.array_equal(pixels, render(Scene.from_json(shapes[field]), 64))
                assert kind != "qa" or sample.meta["answer"] in sample.meta["options"]


def test_categories_and_axes_come_in_turn(data):
    wanted = {"t2i": (TAGS, AXIS_TAGS), "edit": (EDITS, AXIS_EDITS), "qa": (DISCIPLINES, AXIS_QUESTIONS)}
    for kind, (names, axes) in wanted.items():
        counts = Counter(sample.meta["task"] for sample in samples(data, "test", kind))
        assert set(counts) == set(names)
        assert max(counts.values()) == min(counts.values())
        found = Counter(sample.meta["shapes"]["axis"] for sample in samples(data, "heldout", kind))
        assert found == dict.fromkeys(axes, 4)


def test_splits_share_no_scene_and_no_prompt(data):
    scenes, prompts = {}, {}
    for split in COUNTS:
        found = [sample for kind in COUNTS[split] for sample in samples(data, split, kind)]
        graphs = [
            sample.meta["shapes"][f]
            for sample in found
            for f in ("scene", "target_scene")
            if f in sample.meta["shapes"]
        ]
        scenes[split] = {Scene.from_json(graph).graph for graph in graphs}
        prompts[split] = {sample.meta["captions"][0] for sample in samples(data, split, "t2i")}
    for first, second in combinations(COUNTS, 2):
        assert not scenes[first] & scenes[second]
        assert not prompts[first] & prompts[second]


def test_fixed_prompts_are_different_where_there_are_enough():
    prompts = prompt_list("test", 120, seed=0)
    by_tag = Counter((prompt.tag, prompt.text) for prompt, _ in prompts)
    assert max(count for (tag, _), count in by_tag.items() if tag not in ("single_object", "counting", "colors")) == 1
    assert prompts[:60] == prompt_list("test", 60, seed=0)


def test_suites_hold_the_shards_pictures(data, tmp_path):
    counts = write_suite(data, tmp_path / "suite")
    assert counts == {"t2i": 50, "edit": 38, "qa": 32}
    rows = [json.loads(line) for line in (tmp_path / "suite" / "suite.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows[:30]] == [sample.key for sample in samples(data, "test", "t2i")]
    edit = samples(data, "heldout", "edit")[0]
    assert (tmp_path / "suite" / "edit" / edit.key / "source.png").read_bytes() == edit.references[0].data
    assert (tmp_path / "suite" / "edit" / edit.key / "target.png").read_bytes() == edit.target.data
    assert Manifest.load(data.root).digest == data.digest
    with pytest.raises(DataError, match="not empty"):
        write_suite(data, tmp_path / "suite")
    with pytest.raises(DataError, match="split 'best'"):
        write_suite(data, tmp_path / "other", ["best"])
