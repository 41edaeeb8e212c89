import pickle
from itertools import islice

import numpy as np
import pytest
import torch

from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.loader import SampleStore, TrainLoader, eval_batches
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.sample import Image, Sample
from unipic2_data.shapes.render import render
from unipic2_data.shapes.scene import Scene

torch.set_num_threads(1)


def batches(world, number, **options):
    return list(islice(TrainLoader(world, 32, options.pop("batch_size", 8), 0, **options), number))


def same(first, second):
    return (
        first.kind == second.kind
        and first.keys == second.keys
        and first.prompts == second.prompts
        and torch.equal(first.visits, second.visits)
        and torch.equal(first.pixels, second.pixels)
    )


def test_batches_hold_what_was_rendered(world):
    for batch in batches(world, 4):
        assert batch.pixels.shape == (8, 3, 32, 32)
        assert batch.pixels.dtype == torch.float32
        assert batch.pixels.is_contiguous()
        assert batch.size == (32, 32)
        assert torch.equal(batch.weight, torch.ones(8))
        scene = "target_scene" if batch.kind == "edit" else "scene"
        for row, meta in enumerate(batch.meta):
            pixels = ((batch.pixels[row].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
            assert np.array_equal(pixels, render(Scene.from_json(meta["shapes"][scene]), 32))
        if batch.kind == "edit":
            reference = ((batch.references[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
            assert np.array_equal(reference, render(Scene.from_json(batch.meta[0]["shapes"]["scene"]), 32))
        else:
            assert batch.references is None


def test_each_sample_once_an_epoch(world):
    keys = [key for batch in batches(world, 75, tasks={"t2i": 1}) for key in batch.keys]
    assert len(keys) == len(set(keys)) == 600


def test_ranks_and_accumulation_share_one_sequence(world):
    whole = batches(world, 6, batch_size=12)
    split = [batches(world, 12, batch_size=3, accumulate=2, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        parts = [split[rank][2 * step + micro] for micro in range(2) for rank in range(2)]
        assert [key for part in parts for key in part.keys] == batch.keys
        assert torch.equal(torch.cat([part.pixels for part in parts]), batch.pixels)


def test_resumes_at_any_step(world):
    whole = batches(world, 10, accumulate=2)
    for step in (1, 4):
        resumed = batches(world, 10 - 2 * step, accumulate=2, start_step=step)
        assert all(same(*pair) for pair in zip(whole[2 * step :], resumed, strict=True))


def test_workers_change_nothing(world):
    inline = batches(world, 5, start_step=3)
    workers = batches(world, 5, start_step=3, num_workers=2)
    assert all(same(*pair) for pair in zip(inline, workers, strict=True))


def test_length_is_endless(world):
    assert len(TrainLoader(world, 32, 8, 0)) == 10**9


def test_other_size(world):
    (batch,) = batches(world, 1, tasks={"edit": 1})
    loader = TrainLoader(world, (64, 48), 8, 0, tasks={"edit": 1})
    larger = next(iter(loader))
    assert larger.pixels.shape == larger.references.shape == (8, 3, 64, 48)
    assert larger.upscaled == 8
    assert batch.upscaled == 0


def test_eval_batches_are_fixed(world):
    first = list(eval_batches(world, "test", "edit", 32, 32, limit=70))
    assert [len(batch) for batch in first] == [32, 32, 6]
    assert first[0].keys[0] == "shapes-0-edit-test-0000000"
    again = list(eval_batches(world, "test", "edit", 32, 32, limit=70))
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    assert sum(len(batch) for batch in eval_batches(world, "test", "edit", 32, 100)) == 240


def test_missing_kind_and_split(world):
    with pytest.raises(DataError, match="names 'qa'"):
        TrainLoader(world, 32, 8, 0, tasks={"qa": 1})
    with pytest.raises(DataError, match=r"split 'valid' of .* is empty"):
        TrainLoader(world, 32, 8, 0, split="valid")
    with pytest.raises(DataError, match="rank 2 of 2"):
        TrainLoader(world, 32, 8, 0, rank=2, world_size=2)


def test_store_opens_files_in_its_own_process(world):
    store = SampleStore(world, "train", ["t2i"])
    first = store.sample("t2i", 7)
    assert len(store.tars._open) == 1
    other = pickle.loads(pickle.dumps(store))
    assert len(other.tars._open) == 0
    assert other.sample("t2i", 7).key == first.key


def test_shard_that_disappears(tmp_path):
    data = make(tmp_path, Sample("k", "t2i", {"captions": ["x"]}, PICTURE))
    store = SampleStore(data, "train", ["t2i"])
    (tmp_path / "train.tar").unlink()
    with pytest.raises(DataError, match=r"cannot read shard .*train\.tar"):
        store.sample("t2i", 0)


def make(tmp_path, *samples):
    with ShardWriter(tmp_path, "train.tar", "train", samples[0].kind) as writer:
        for sample in samples:
            writer.add(sample)
    manifest = Manifest(tmp_path, [writer.shard])
    manifest.save()
    return manifest


PICTURE = Image(encode_png(np.zeros((8, 8, 3), np.uint8)))


def test_captions_are_chosen_by_visit(tmp_path):
    captions = ["one", "two", "three"]
    data = make(tmp_path, *(Sample(f"k{n}", "t2i", {"captions": captions}, PICTURE) for n in range(4)))
    loader = TrainLoader(data, 8, 4, 0)
    seen = {}
    for batch in islice(loader, 30):
        for key, prompt in zip(batch.keys, batch.prompts, strict=True):
            seen.setdefault(key, []).append(prompt)
    assert all(set(prompts) == set(captions) for prompts in seen.values())
    assert seen["k0"] != seen["k1"]
    assert [batch.prompts for batch in eval_batches(data, "train", "t2i", 8, 4)] == [["one"] * 4]


def test_bad_samples_are_named(tmp_path):
    data = make(tmp_path / "a", Sample("no-reference", "edit", {"instruction": "x"}, PICTURE))
    with pytest.raises(DataError, match=r"sample no-reference of .* found a target and 0 references"):
        next(iter(TrainLoader(data, 8, 1, 0)))
    data = make(tmp_path / "b", Sample("broken", "t2i", {"captions": ["x"]}, Image(b"nothing")))
    with pytest.raises(DataError, match=r"sample broken of .*: unreadable image \(7 bytes\)"):
        next(iter(TrainLoader(data, 8, 1, 0)))
    wide = Image(encode_png(np.zeros((8, 16, 3), np.uint8)))
    data = make(tmp_path / "c", Sample("pair", "edit", {"instruction": "x"}, PICTURE, [wide]))
    with pytest.raises(DataError, match="sample pair: reference of 16x8 pixels"):
        next(iter(TrainLoader(data, 8, 1, 0)))


def test_prompt_without_text_is_named(tmp_path):
    data = make(tmp_path, Sample("mute", "t2i", {"captions": ["hello"]}, PICTURE))
    tar = tmp_path / "train.tar"
    tar.write_bytes(tar.read_bytes().replace(b"hello", b"     "))
    with pytest.raises(DataError, match=r"sample mute of .*: a t2i sample needs a text in 'captions'"):
        next(iter(TrainLoader(data, 8, 1, 0)))
