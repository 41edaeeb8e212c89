"""The promise of the loader: whatever happens, and with any layout, the batches are the same bytes."""

import hashlib
import os
import shutil
import signal
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from unipic2_data.buckets import Buckets, BucketSizes
from unipic2_data.images import encode_png
from unipic2_data.loader import TrainLoader
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.pool import Pool
from unipic2_data.sample import Image, Sample
from unipic2_data.sources import Source

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

GLOBAL = 12
STEPS = 14


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two data sets of pictures of several sizes, some of them damaged; the second has several captions."""
    rng = np.random.default_rng(0)
    found = []
    for name in "ab":
        root, shards = tmp_path_factory.mktemp(name), []
        for kind in ("t2i", "edit"):
            with ShardWriter(root, f"train/{kind}.tar", "train", kind) as writer:
                for n in range(40):
                    height, width = ((24, 24), (24, 32), (40, 24), (60, 80))[n % 4]
                    picture = Image(encode_png(rng.integers(0, 256, (height, width, 3), np.uint8)))
                    if n == 9:
                        picture = Image(picture.data[:70])
                    text = {"captions": ["one", "two", "three"]} if kind == "t2i" else {"instruction": ["do", "make"]}
                    meta = text | {"height": height, "width": width}
                    writer.add(Sample(f"{name}-{kind}-{n}", kind, meta, picture, [picture] if kind == "edit" else []))
            shards.append(writer.shard)
        Manifest(root, shards).save()
        found.append(Source(str(root), weight=1 + (name == "b")))
    return found


def loader(sources, world=1, rank=0, accumulate=1, workers=0, start=0):
    pool = Pool.of(sources, BucketSizes(Buckets([16, 32]), 8))
    batch = GLOBAL // world // accumulate
    return TrainLoader(
        pool, 8, batch, 7, accumulate=accumulate, rank=rank, world_size=world, num_workers=workers, start_step=start,
        tasks={"t2i": 2, "edit": 1}, bad_rate=1,
    )  # fmt: skip


def row_digests(batch):
    """Return a digest of all bytes of each row."""
    rows = []
    for row, key in enumerate(batch.keys):
        digest = hashlib.sha256(f"{batch.kind} {batch.size} {key} {batch.prompts[row]}".encode())
        for tensor in (batch.visits, batch.weight, batch.pixels, batch.references):
            digest.update(b"" if tensor is None else tensor[row].numpy().tobytes())
        rows.append(digest.hexdigest())
    return rows


@pytest.fixture(scope="module")
def whole(sources):
    """The rows of every global batch of an uninterrupted run in one process."""
    found = [row_digests(batch) for batch in islice(loader(sources), STEPS)]
    assert len({row for step in found for row in step}) > 100
    return found


def train(sources, workers, pipe):
    """Consume batches and report each, until killed."""
    torch.set_num_threads(1)
    for batch in loader(sources, workers=workers):
        pipe.send(row_digests(batch))
        if not pipe.recv():
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_after_a_kill_the_next_batches_are_those_of_an_uninterrupted_run(sources, whole, workers):
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=train, args=(sources, workers, theirs), daemon=False)
    process.start()
    consumed = 0
    for consumed in range(1, 6):  # killed in mid-epoch, with batches prefetched and not consumed
        assert ours.recv() == whole[consumed - 1]
        ours.send(consumed < 5)
    process.join()  # with a limit it would wait for the orphaned workers too, which notice after five seconds
    assert process.exitcode == -signal.SIGKILL
    resumed = islice(loader(sources, workers=workers, start=consumed), STEPS - consumed)
    assert [row_digests(batch) for batch in resumed] == whole[consumed:]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_ranks_have_disjoint_slices_of_the_same_batches(sources, whole, size, workers):
    steps = 4
    ranks = [
        [row_digests(one) for one in islice(loader(sources, size, rank, workers=workers), steps)]
        for rank in range(size)
    ]
    for step in range(steps):
        assert {len(rank[step]) for rank in ranks} == {GLOBAL // size}
        assert [row for rank in ranks for row in rank[step]] == whole[step]


def test_other_layouts_go_on_where_the_last_one_stopped(sources, whole):
    """One process, then three ranks, then two with accumulation and a worker: the sequence is that of one run."""
    step = 0
    for world, accumulate, workers, steps in ((1, 1, 0, 3), (3, 2, 0, 5), (2, 3, 1, 6)):
        ranks = [
            [
                row_digests(one)
                for one in islice(loader(sources, world, rank, accumulate, workers, step), steps * accumulate)
            ]
            for rank in range(world)
        ]
        for number in range(steps):
            micro = range(number * accumulate, (number + 1) * accumulate)
            assert [row for one in micro for rank in ranks for row in rank[one]] == whole[step + number]
        step += steps
    assert step == STEPS


def test_each_sample_is_seen_once_an_epoch_of_its_source(sources):
    seen, kinds = {}, {"t2i": 0, "edit": 0}
    for batch in islice(loader(sources), 60):
        assert len(batch) == GLOBAL
        kinds[batch.kind] += 1
        for row, visit in enumerate(batch.visits.tolist()):
            key = batch.keys[row]
            assert seen.setdefault((key, visit), batch.size) == batch.size
            assert (key.endswith("-9")) == (row in batch.faults)
    assert kinds == {"t2i": 40, "edit": 20}
    assert len(seen) == 60 * GLOBAL  # no sample twice in the same epoch


def test_the_order_is_that_of_the_data_and_not_of_its_place(sources, whole, tmp_path):
    moved = [
        Source(str(shutil.copytree(source.path, tmp_path / str(number))), source.weight)
        for number, source in enumerate(sources)
    ]
    assert [row_digests(batch) for batch in islice(loader(moved), 3)] == whole[:3]


def test_places_of_the_tars_do_not_matter(sources, whole, serve):
    for source in sources:
        Pool.of([source], BucketSizes(Buckets([16, 32]), 8))  # makes the tables
    root = sources[0].path
    web = serve(Path(root))
    other = [Source(web.address, sources[0].weight), sources[1]]
    assert [row_digests(batch) for batch in islice(loader(other), 5)] == whole[:5]
    half = [Source(root, sources[0].weight, tars=web.address), sources[1]]
    assert [row_digests(batch) for batch in islice(loader(half, workers=1, start=2), 3)] == whole[2:5]


def test_shards_of_a_command_are_read_one_after_the_other(world, tmp_path):
    """The order of such a source keeps to a few shards at a time; resumed, it is exact too."""
    log = tmp_path / "fetched"
    source = Source(str(world.root), tars=f"pipe:echo {{}} >> {log}; cat {world.root}/{{}}")
    first = [batch.keys for batch in islice(TrainLoader(Pool.of([source]), 32, 50, 0, tasks={"t2i": 1}), 12)]
    assert len({key for keys in first for key in keys}) == 600
    shards = len(world.shards_of("train", "t2i"))
    assert len(log.read_text().splitlines()) == shards
    resumed = TrainLoader(Pool.of([source]), 32, 50, 0, tasks={"t2i": 1}, start_step=7)
    assert [batch.keys for batch in islice(resumed, 5)] == first[7:]
