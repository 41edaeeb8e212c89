from collections import Counter
from itertools import islice

import numpy as np
import pytest

from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.loader import TrainLoader
from unipic2_data.manifest import ShardWriter
from unipic2_data.patience import Patience
from unipic2_data.pool import Pool
from unipic2_data.sample import Image, Sample
from unipic2_data.sources import Source, StreamSource
from unipic2_data.streams import StreamReader, StreamState

PICTURE = Image(encode_png(np.zeros((8, 8, 3), np.uint8)))
QUICK = Patience(tries=2, pause=0.01, timeout=5, rest=0.1)


@pytest.fixture
def tars(tmp_path):
    """Six tars of 3, 4, 5, 3, 4, 5 samples."""
    for tar in range(6):
        with ShardWriter(tmp_path, f"{tar:02}.tar", "train", "t2i") as writer:
            for n in range(3 + tar % 3):
                writer.add(Sample(f"{tar}-{n}", "t2i", {"captions": [f"{tar} {n}"]}, PICTURE))
    return tmp_path


def pool(tars, **options):
    return Pool.of([Source(f"{tars}/{{00..05}}.tar")], patience=QUICK, **options)


def loaders(tars, world=1, workers=0, states=None, **options):
    return [
        TrainLoader(
            pool(tars),
            8,
            2,
            0,
            rank=rank,
            world_size=world,
            num_workers=workers,
            streams=states,
            patience=QUICK,
            **options,
        )
        for rank in range(world)
    ]


def test_places_that_are_left_are_dealt_first():
    state = StreamState().after([2, 0, 1])
    assert state == StreamState((1, 4, 5), 6)
    assert [state.place(turn) for turn in range(6)] == [1, 4, 5, 6, 7, 8]
    again = state.after([1, 0])
    assert again == StreamState((4, 5), 6)
    assert again.after([0, 0, 0, 0]) == again
    assert state.after([3, 2]) == StreamState((8,), 9)
    assert StreamState.from_json(state.to_json()) == state


def test_every_place_is_read_once_whatever_the_readers():
    rng = np.random.default_rng(0)
    state, read = StreamState(), []
    for _ in range(50):
        finished = rng.integers(0, 4, rng.integers(1, 5)).tolist()
        turns = [
            turn
            for reader, count in enumerate(finished)
            for turn in range(reader, count * len(finished), len(finished))
        ]
        read += [state.place(turn) for turn in turns]
        state = state.after(finished)
    left = [*state.left]
    assert sorted(read + left) == list(range(state.following))


def test_readers_take_turns(tars):
    source = pool(tars).sources[0]
    assert isinstance(source, StreamSource)
    firsts = []
    for number in range(6):
        reader = StreamReader(source, 0, StreamState(), number, 6, QUICK)
        firsts.append(reader.next().key.partition("-")[0])
        assert reader.finished == 0
    assert sorted(firsts) == list("012345")


def test_all_samples_of_an_epoch_come_and_each_layout_sees_all(tars):
    for world, workers in ((1, 0), (3, 0), (1, 2)):
        seen = Counter()
        for loader in loaders(tars, world, workers):
            seen.update(key for batch in islice(loader, 24 // 2 // world * 2) for key in batch.keys)
        assert len(seen) == 24, (world, workers)
        assert max(seen.values()) <= 3


def test_a_resumed_stream_goes_on_with_the_shards_that_are_not_finished(tars):
    ones = loaders(tars, 2)
    seen = []
    for loader in ones:
        seen += [key for batch in islice(loader, 3) for key in batch.keys]
    states = ones[0].stream_states([loader.finished_shards for loader in ones])
    assert states == ones[1].stream_states([loader.finished_shards for loader in ones])
    left = 6 - states[0].following + len(states[0].left)
    (resumed,) = loaders(tars, 1, states=states)
    following = [key for batch in islice(resumed, 12) for key in batch.keys]
    tars_left = list(dict.fromkeys(key.partition("-")[0] for key in following))[:left]
    finished = {key.partition("-")[0] for key in seen} - set(tars_left)
    assert len(finished) + left == 6
    assert len(set(seen) | set(following)) == 24


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_is_counted_where_batches_are_consumed(tars, workers):
    (loader,) = loaders(tars, workers=workers)
    batches = iter(loader)
    assert loader.finished_shards == {0: [0] * workers}
    for _ in range(12 * workers):
        next(batches)
    assert all(1 <= count <= 10 for count in loader.finished_shards[0])


def test_a_stream_says_how_it_resumes(tars, caplog):
    loaders(tars)
    assert "it is streamed, and a resumed run reads the shards again that it was in" in caplog.text


def test_a_server_that_disappears_in_mid_shard_costs_the_rest_of_the_shard(tars, serve):
    server = serve(tars)
    source = Source(f"{server.address}/{{00..05}}.tar")
    loader = TrainLoader(Pool.of([source]), 8, 2, 0, bad_rate=1, patience=QUICK)
    batches = iter(loader)
    first = next(batches)
    server.dead = True
    dead = [next(batches) for _ in range(6)]
    server.dead = False
    after = [next(batches) for _ in range(6)]
    assert not first.faults
    assert loader.quarantine.reasons.keys() == {"shard cannot be read"}
    assert sum(len(batch.faults) for batch in dead) >= 5
    assert all(float(batch.weight[row]) == 0 for batch in dead for row in batch.faults)
    assert not any(batch.faults for batch in after[2:])


def test_breaks_of_the_connection_cost_nothing(tars, serve):
    server = serve(tars)
    server.breaks = 3
    loader = TrainLoader(Pool.of([Source(f"{server.address}/{{00..05}}.tar")]), 8, 2, 0, patience=QUICK)
    (local,) = loaders(tars)
    keys = [key for batch in islice(loader, 12) for key in batch.keys]
    assert Counter(keys) == Counter(dict.fromkeys(keys, 1))
    assert len(keys) == len({key for batch in islice(local, 12) for key in batch.keys}) == 24


def test_a_stream_of_a_command(tars):
    loader = TrainLoader(Pool.of([Source(f"pipe:cat {tars}/{{00..05}}.tar")]), 8, 2, 0)
    assert len({key for batch in islice(loader, 12) for key in batch.keys}) == 24


def test_a_stream_is_mixed_with_a_data_set(tars, world):
    sources = [Source(f"{tars}/{{00..05}}.tar", weight=1), Source(str(world.root), weight=3)]
    for batch in islice(TrainLoader(Pool.of(sources), 32, 8, 0, tasks={"t2i": 1}), 5):
        assert Counter(key.startswith("shapes") for key in batch.keys) == {True: 6, False: 2}


def test_what_a_stream_cannot_do(tars, world):
    from unipic2_data.buckets import Buckets, BucketSizes

    with pytest.raises(DataError, match="Buckets need a manifest"):
        pool(tars, sizes=BucketSizes(Buckets([16]), 8))
    with pytest.raises(DataError, match="cannot be chosen before they are read"):
        Pool.of([Source(f"{tars}/{{00..05}}.tar", min_side=8)])
    with pytest.raises(DataError, match=r"1 of 7 tars of .* are missing: .*06\.tar"):
        Pool.of([Source(f"{tars}/{{00..06}}.tar")])
    with pytest.raises(DataError, match="give every source a weight"):
        Pool.of([Source(f"{tars}/{{00..05}}.tar"), Source(str(world.root))])
    with pytest.raises(DataError, match="kind 'picture'"):
        Pool.of([Source(f"{tars}/{{00..05}}.tar", kind="picture")])
