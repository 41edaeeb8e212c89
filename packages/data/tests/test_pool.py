from collections import Counter
from itertools import islice

import numpy as np
import pytest

from unipic2_data import pool as pool_module
from unipic2_data.buckets import Buckets, BucketSizes
from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.loader import TrainLoader
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.plan import Plan
from unipic2_data.pool import Pool
from unipic2_data.sample import Image, Sample
from unipic2_data.sources import Source

SIZES = [(16, 16), (16, 24), (32, 32), (33, 48), (8, 8)]
BUCKETS = BucketSizes(Buckets([16, 32]), 8)


def write(root, count=20, start=0):
    shards = []
    for number in range(2):
        with ShardWriter(root, f"train/t2i-{number}.tar", "train", "t2i") as writer:
            for n in range(start + number * count, start + (number + 1) * count):
                height, width = SIZES[n % 5]
                pixels = np.full((height, width, 3), n % 256, np.uint8)
                meta = {"captions": ["x"], "height": height, "width": width, "scores": {"q": n}}
                writer.add(
                    Sample(f"k{n}", "t2i", meta | {"licence": "MIT" if n % 2 else "GPL-3"}, Image(encode_png(pixels)))
                )
        shards.append(writer.shard)
    manifest = Manifest(root, shards)
    manifest.save()
    return manifest


def test_pictures_go_to_buckets_and_small_ones_are_counted(tmp_path, caplog):
    pool = Pool.whole(write(tmp_path), sizes=BUCKETS)
    assert sorted(cell.size for cell in pool.cells) == [(16, 16), (16, 24), (24, 40), (32, 32)]
    assert pool.skipped == {"smaller than the lowest resolution": 8}
    assert sum(cell.count for cell in pool.cells) == 32
    assert "left out: 8 x smaller than the lowest resolution" in str(pool)
    loader = TrainLoader(pool, 8, 4, 0, upscale=False)
    assert caplog.text.count("left out: 8 x smaller than the lowest resolution") == 1
    assert "in the first epoch, 0 samples fill no batch" in caplog.text
    assert "in the first epoch, 12 samples fill no batch" in TrainLoader(pool, 8, 5, 0).report
    for batch in islice(loader, 24):
        assert batch.size in BUCKETS.sizes
        assert batch.upscaled == 0
        assert not batch.faults
        assert {SIZES[int(key[1:]) % 5] for key in batch.keys} == {SIZES[int(batch.keys[0][1:]) % 5]}


def test_small_pictures_are_enlarged_if_asked(tmp_path):
    pool = Pool.whole(write(tmp_path), sizes=BucketSizes(Buckets([16, 32], upscale=True), 8))
    assert not pool.skipped
    assert sum(cell.count for cell in pool.cells) == 40
    seen = list(islice(TrainLoader(pool, 8, 4, 0), 10))
    assert sum(batch.upscaled for batch in seen) == 8


def test_filters_choose_before_anything_is_read(tmp_path):
    write(tmp_path)
    source = Source(str(tmp_path), scores=["q>=10", "q<30"], licences=["MIT"], min_side=16)
    pool = Pool.of([source])
    assert pool.skipped == {"score q is not >= 10": 10, "score q is not < 30": 10, "licence GPL-3": 10} | {
        "shorter side is below 16 pixels": 2
    }
    keys = {key for batch in islice(TrainLoader(pool, 8, 2, 0), 4) for key in batch.keys}
    assert keys == {f"k{n}" for n in range(10, 30) if n % 2 and n % 5 != 4}
    with pytest.raises(DataError, match="no samples to train on"):
        TrainLoader(Pool.of([Source(str(tmp_path), scores=["q>=1000"])]), 8, 2, 0)
    with pytest.raises(DataError, match="no rule about a score"):
        Pool.of([Source(str(tmp_path), scores=["q=5"])])


def test_sources_without_weights_are_one_pool(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", count=5, start=100)
    pool = Pool.of([Source(str(tmp_path / "a")), Source(str(tmp_path / "b"))])
    keys = [key for batch in islice(TrainLoader(pool, 8, 10, 0), 5) for key in batch.keys]
    assert len(set(keys)) == 50
    assert all(sum(len(key) == 4 for key in keys[at : at + 10]) == 2 for at in range(0, 50, 10))


def test_weights_are_shares_of_samples_within_each_kind(tmp_path, world):
    write(tmp_path)
    sources = [Source(str(tmp_path), 1), Source(str(world.root), 3)]
    loader = TrainLoader(Pool.of(sources), 8, 8, 0)
    seen = Counter()
    for batch in islice(loader, 20):
        seen.update((batch.kind, key.startswith("shapes")) for key in batch.keys)
    assert seen == {("edit", True): 80, ("t2i", True): 60, ("t2i", False): 20}


def test_weights_hold_over_buckets(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", count=5, start=100)
    pool = Pool.of([Source(str(tmp_path / "a"), 1), Source(str(tmp_path / "b"), 1)], BUCKETS)
    plan = Plan(pool.cells, 0, 4)
    source = np.array([cell.source for cell in plan.cells])
    rows = np.concatenate([source[plan.step(step).cells] for step in range(400)])
    assert abs(np.mean(rows) - 0.5) < 0.02


@pytest.mark.parametrize("weights", [(1, None), (0, 1), (-1, 2), (float("inf"), 1), (float("nan"), 1)])
def test_bad_weights(tmp_path, weights):
    write(tmp_path)
    with pytest.raises(DataError, match="weights must be positive and given to all sources or to none"):
        Pool.of([Source(str(tmp_path), weight) for weight in weights])


def test_large_cells_are_shuffled_by_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "FULL_SHUFFLE", 10)
    data = write(tmp_path)
    whole = Pool.whole(data)
    assert whole.cells[0].runs.tolist() == [0, 20]
    keys = [key for batch in islice(TrainLoader(whole, 8, 8, 0), 5) for key in batch.keys]
    assert len(set(keys)) == 40
    bucketed = Pool.whole(data, sizes=BUCKETS)
    monkeypatch.setattr(pool_module, "FULL_SHUFFLE", 1)
    for cell, members in zip(Pool.whole(data, sizes=BUCKETS).cells, bucketed.members, strict=True):
        assert cell.runs.tolist() == [0, int((members < 20).sum())]


def test_missing_splits_and_sources(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match=r"split 'test' of .* is empty"):
        Pool.of([Source(str(tmp_path))], split="test")
    with pytest.raises(DataError, match="no data set at"):
        Pool.of([Source(str(tmp_path / "nowhere"))])
