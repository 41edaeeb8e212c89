from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from unipic2_data.errors import DataError
from unipic2_train.edit_reward.data import ScoredEdits


def keys(data, number=3):
    return [batch.keys for batch in islice(data.train_dataloader(), number)]


def test_batches_are_whole_groups_with_their_scores(data):
    batch = next(iter(data.train_dataloader()))
    assert (batch.kind, len(batch), tuple(batch.reference_bytes.shape)) == ("edit", 8, (8, 32, 32, 3))
    assert [key.rpartition("-")[2] for key in batch.keys] == ["000", "001", "002", "003"] * 2
    brightness = batch.target_bytes.double().mean((1, 2, 3)) / 255
    torch.testing.assert_close(data.facts.of(batch), brightness)


def test_an_epoch_shows_each_group_once_and_a_resumed_run_goes_on(data):
    epoch = keys(data)
    assert len({key for batch in epoch for key in batch}) == 24
    data.trainer.global_step = 2
    assert keys(data, 1) == epoch[2:]


def test_processes_and_micro_batches_share_a_step(data):
    whole = keys(data, 1)[0]
    parts = []
    for rank in range(2):
        data.trainer.world_size, data.trainer.global_rank = 2, rank
        parts += keys(data, 1)[0]
    assert parts == whole
    data.trainer.world_size, data.trainer.global_rank, data.trainer.accumulate_grad_batches = 1, 0, 2
    assert [key for batch in keys(data, 2) for key in batch] == whole


def test_held_out_groups_are_shared_evenly(data):
    assert sum(len(batch) for batch in data.val_dataloader()) == 12
    data.trainer.world_size = 2
    shares = []
    for rank in range(2):
        data.trainer.global_rank = rank
        shares.append([batch.keys for batch in data.groups("test", 3)])
    assert [[len(batch) for batch in share] for share in shares] == [[4], [4]]
    assert shares[0] != shares[1]


def test_data_that_nobody_has_scored_is_refused(shapes):
    with pytest.raises(ValueError, match=r"was made by .*learns from edits that one judge has scored"):
        ScoredEdits.check(SimpleNamespace(path=str(shapes), global_batch=8, seed=0))
    with pytest.raises(DataError, match="no data set at"):
        ScoredEdits.check(SimpleNamespace(path="nowhere", global_batch=8, seed=0))


def test_batches_that_would_cut_a_group_are_refused(scored, data):
    with pytest.raises(ValueError, match="global_batch 6 must be a multiple of the 4 edits of a group"):
        ScoredEdits.check(SimpleNamespace(path=str(scored), global_batch=6, seed=0))
    data.trainer.world_size = 4
    with pytest.raises(ValueError, match=r"4 processes x 1 accumulated micro-batches x 4 edits of a group = 16"):
        keys(data, 1)


def test_a_run_does_not_go_on_with_other_data(data):
    from lightning.pytorch.trainer.states import TrainerFn

    data.trainer.state = SimpleNamespace(fn=TrainerFn.FITTING)
    data.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match=r"another sequence of groups \(seed: 4 then, 5 now\)"):
        data.load_state_dict({**data.state_dict(), "seed": 4})
