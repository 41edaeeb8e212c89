import hashlib
from collections import Counter
from itertools import combinations

import pytest

from unipic2_data.errors import DataError
from unipic2_data.loader import SampleStore
from unipic2_data.manifest import Manifest
from unipic2_data.shapes.prompts import HELD_OUT_PHRASING, TAGS
from unipic2_data.shapes.scene import HELD_OUT_PAIRS, SPLITS, Scene
from unipic2_data.shapes.world import ShapesConfig, prompt_list, write_shapes

SMALL = {"train": {"t2i": 300, "edit": 200}, "test": {"t2i": 60, "edit": 30}}


def metas(world, split, kind):
    store = SampleStore(world, split, [kind])
    return [store.read(kind, index).meta for index in range(store.counts[kind])]


def scene_graphs(world, split):
    found = set()
    for kind in ("t2i", "edit"):
        for meta in metas(world, split, kind):
            names = ("scene", "target_scene") if kind == "edit" else ("scene",)
            found |= {Scene.from_json(meta["shapes"][name]).graph for name in names}
    return found


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_splits_share_no_scene_and_no_prompt(world, tmp_path):
    other = write_shapes(tmp_path / "other", ShapesConfig(32, 1, SMALL))  # another seed: the splits are the same
    scenes = {split: scene_graphs(world, split) for split in SPLITS}
    scenes["train"] |= scene_graphs(other, "train")
    scenes["test"] |= scene_graphs(other, "test")
    prompts = {split: {meta["captions"][0] for meta in metas(world, split, "t2i")} for split in SPLITS}
    prompts["train"] |= {meta["captions"][0] for meta in metas(other, "train", "t2i")}
    for first, second in combinations(SPLITS, 2):
        assert not scenes[first] & scenes[second]
        assert not prompts[first] & prompts[second]
    assert all(len(graphs) > 100 for graphs in scenes.values())


def test_held_out_pairs_are_in_no_other_split(world):
    pairs = {f"{color},{shape}" for color, shape in HELD_OUT_PAIRS}
    for split in ("train", "validation", "test"):
        assert not any(pair in graph for graph in scene_graphs(world, split) for pair in pairs)


def test_heldout_samples_name_their_axis(world):
    for kind in ("t2i", "edit"):
        axes = Counter(meta["shapes"]["axis"] for meta in metas(world, "heldout", kind))
        assert set(axes) == {"pair", "phrasing"}
        assert min(axes.values()) >= 80
    for meta in metas(world, "heldout", "t2i"):
        new = meta["captions"][0].startswith(HELD_OUT_PHRASING.split("{", maxsplit=1)[0])
        assert new == (meta["shapes"]["axis"] == "phrasing")
    assert {meta["shapes"]["axis"] for meta in metas(world, "test", "edit")} == {None}


def test_test_prompts_are_many_and_balanced(world):
    prompts = prompt_list("test", 1000, seed=0)
    assert len({prompt.text for prompt in prompts[:400]}) == 400
    counts = Counter(prompt.tag for prompt in prompts)
    assert set(counts) == set(TAGS)
    assert max(Counter(prompt.text for prompt in prompts).values()) <= 16
    assert sorted(counts.values())[1] >= 100  # only single_object is short of strings
    with pytest.raises(DataError, match="'validation' split has prompts for"):
        prompt_list("validation", 10_000, seed=0)
    first = Counter(prompt.tag for prompt in prompts[:24])
    assert max(first.values()) - min(first.values()) <= 1
    edits = {(m["instruction"], str(m["shapes"]["scene"])) for m in metas(world, "test", "edit")}
    assert len(edits) == 240


def test_samples_carry_their_truth(world):
    for meta in metas(world, "train", "t2i"):
        assert meta["shapes"]["metadata"]["tag"] == meta["task"]
        assert meta["shapes"]["metadata"]["prompt"] == meta["captions"][0]
        assert meta["width"] == meta["height"] == 32
    kinds = Counter(meta["task"] for meta in metas(world, "train", "edit"))
    assert set(kinds.values()) == {120}
    assert set(Counter(meta["task"] for meta in metas(world, "train", "t2i"))) == {*TAGS, "scene"}


def test_same_seed_same_bytes_with_any_workers(tmp_path):
    config = ShapesConfig(32, 3, SMALL)
    first = write_shapes(tmp_path / "a", config, workers=1)
    second = write_shapes(tmp_path / "b", config, workers=3)
    assert digests(first.root) == digests(second.root)
    other = write_shapes(tmp_path / "c", ShapesConfig(32, 4, SMALL))
    assert first.digest != other.digest
    first.verify()


def test_more_samples_begin_with_the_same_ones(tmp_path):
    more = {"train": {"t2i": 310}}
    first = write_shapes(tmp_path / "a", ShapesConfig(32, 3, {"train": {"t2i": 300}}))
    second = write_shapes(tmp_path / "b", ShapesConfig(32, 3, more))
    assert metas(first, "train", "t2i") == metas(second, "train", "t2i")[:300]


def test_the_manifest_describes_the_data(world):
    assert world.generator["seed"] == 0
    assert world.generator["size"] == 32
    assert world.counts["train"] == {"t2i": 600, "edit": 600}
    assert set(world.packages) == {"unipic2-data", "python", "numpy"}
    assert Manifest.load(world.root).digest == world.digest


def test_nothing_asked_for_and_folder_taken(tmp_path):
    with pytest.raises(DataError, match="no samples at all"):
        write_shapes(tmp_path / "a", ShapesConfig(32, 0, {"train": {"t2i": 0}}))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        write_shapes(tmp_path / "b", ShapesConfig(32, 0, SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_failure_leaves_nothing(tmp_path):
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_shapes(tmp_path / "a", ShapesConfig(32, 0, SMALL), progress=fail)
    assert list(tmp_path.iterdir()) == []
