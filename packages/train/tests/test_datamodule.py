from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from unipic2_data.errors import DataError
from unipic2_train.datamodule import ShardData


@pytest.fixture
def data(shapes):
    def make(world=1, rank=0, accumulate=1, step=0, fn=TrainerFn.FITTING, **options):
        made = ShardData(**{"path": str(shapes), "size": 32, "global_batch": 8, **options})
        made.trainer = SimpleNamespace(
            world_size=world,
            global_rank=rank,
            accumulate_grad_batches=accumulate,
            global_step=step,
            state=SimpleNamespace(fn=fn),
        )
        made.setup("fit")
        return made

    return make


def keys(loader, count):
    batches = iter(loader)
    return [next(batches).keys for _ in range(count)]


@pytest.mark.parametrize(("world", "accumulate", "expected"), [(1, 1, 8), (2, 1, 4), (2, 2, 2), (1, 8, 1)])
def test_micro_batch(data, world, accumulate, expected):
    assert data(world=world, accumulate=accumulate).micro_batch == expected


def test_a_global_batch_that_does_not_divide(data):
    with pytest.raises(ValueError, match=r"global_batch 8 must be a multiple of 3 processes x 2 .* = 6"):
        _ = data(world=3, accumulate=2).micro_batch


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 2)])
def test_any_layout_sees_the_global_batches_of_one_process(data, world, accumulate):
    whole = keys(data().train_dataloader(), 6)
    ranks = [
        keys(data(world=world, rank=rank, accumulate=accumulate).train_dataloader(), 6 * accumulate)
        for rank in range(world)
    ]
    for step in range(6):
        micro = range(step * accumulate, (step + 1) * accumulate)
        assert [key for number in micro for rank in ranks for key in rank[number]] == whole[step]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_starts_at_the_optimiser_step(data, workers):
    whole = keys(data().train_dataloader(), 9)
    assert keys(data(step=5, num_workers=workers).train_dataloader(), 4) == whole[5:]


def test_kinds_alternate_and_tasks_choose(data):
    batches = iter(data().train_dataloader())
    assert {next(batches).kind for _ in range(2)} == {"t2i", "edit"}
    only = data(tasks={"edit": 1})
    batches = iter(only.train_dataloader())
    assert [next(batches).kind for _ in range(4)] == ["edit"] * 4
    assert only.kinds == ["edit"]
    assert {batch.kind for batch in only.val_dataloader()} == {"edit"}


def test_ranks_share_the_validation_samples_evenly(data):
    whole = [key for batch in data(validation_samples=16).val_dataloader() for key in batch.keys]
    shares = [data(world=2, rank=rank, validation_samples=16).val_dataloader() for rank in range(2)]
    assert len(shares[0]) == len(shares[1])
    assert [len(batch) for batch in shares[0]] == [len(batch) for batch in shares[1]]
    assert sorted(key for share in shares for batch in share for key in batch.keys) == sorted(whole)
    assert len(whole) == 32


def test_a_fixed_batch_is_the_same_on_every_rank(data):
    one, two = (data(world=2, rank=rank).fixed_batch("test", "edit", 4) for rank in range(2))
    assert one.keys == two.keys
    assert torch.equal(one.pixels, two.pixels)


def test_kinds_in_a_split_that_is_not_there(data):
    assert data().kinds_in("test") == ["t2i", "edit"]
    assert data().kinds_in("nothing") == []


def test_shapes_have_ground_truth(data):
    assert data().has_ground_truth


@pytest.mark.parametrize(("option", "value"), [("seed", 1), ("global_batch", 16), ("tasks", {"t2i": 1}), ("size", 16)])
def test_resume_on_another_sequence_of_batches_is_refused(data, option, value):
    state = data().state_dict()
    data().load_state_dict(state)
    with pytest.raises(ValueError, match=rf"another sequence of batches \({option}: "):
        data(**{option: value}).load_state_dict(state)


def test_resume_on_another_data_set_is_refused(data):
    state = {**data().state_dict(), "manifest": "other"}
    with pytest.raises(ValueError, match="manifest: other then"):
        data().load_state_dict(state)


def test_a_model_may_be_scored_on_other_data(data):
    data(seed=3, fn=TrainerFn.TESTING).load_state_dict(data().state_dict())


def test_no_data_at_all(tmp_path):
    with pytest.raises(DataError, match="no data set at"):
        ShardData(str(tmp_path), 32, 8).setup("fit")
