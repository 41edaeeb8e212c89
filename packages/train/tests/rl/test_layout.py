"""Batch arithmetic: what divides, who does what, and what is refused."""

import pytest
import torch

from unipic2_train.rl.config import RLConfig
from unipic2_train.rl.layout import Layout
from unipic2_train.rl.optimise import micro_batches


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_the_images_and_groups_may_lie_across(world, batch):
    layouts = [Layout(24, 6, world, rank) for rank in range(world)]
    rows = batch("t2i", 4)
    keys = [key for layout in layouts for key in layout.image_keys(rows)]
    assert keys == [f"{key}#{number}" for key in rows.keys for number in range(6)]
    assert [layout.groups for layout in layouts] == [4] * world


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_each_update_takes_an_equal_share_of_every_group(updates, batch):
    layout = Layout(24, 6)
    chosen = layout.update_of(batch("edit", 4), updates, seed=0).view(4, 6)
    for update in range(updates):
        assert (chosen == update).sum(1).tolist() == [6 // updates] * 4
    assert updates == 1 or len({tuple(row) for row in chosen.tolist()}) > 1, "not the same images of every group"


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_process_takes_as_many_forwards_whatever_was_dropped(world):
    chosen = torch.zeros(32, dtype=torch.bool)
    chosen[[0, 1, 2, 3, 4, 5, 6, 20]] = True
    found = [list(micro_batches(chosen, Layout(32, 8, world, rank), 2)) for rank in range(world)]
    assert len({len(batches) for batches in found}) == 1
    assert {len(weights) for batches in found for _, weights in batches} == {2}
    assert sum(float(weights.sum()) for batches in found for _, weights in batches) == 8
    places = [
        rank * 32 // world + place
        for rank, batches in enumerate(found)
        for rows, weights in batches
        for place, weight in zip(rows.tolist(), weights.tolist(), strict=True)
        if weight
    ]
    assert sorted(places) == chosen.nonzero().squeeze(1).tolist()


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((10, 4), "no multiple of 4 images a group: 12"),
        ((12, 4, 5), "no multiple of 5 processes: 15"),
        ((4, 1), "2 or more images"),
    ],
)
def test_what_does_not_divide_is_named(numbers, says):
    with pytest.raises(ValueError, match=says):
        Layout(*numbers)


def test_updates_and_supervised_rows_must_divide_too():
    with pytest.raises(ValueError, match=r"must divide data\.group_size 6"):
        Layout(12, 6, 2).check(RLConfig(updates=4))
    with pytest.raises(ValueError, match=r"micro_batch 8 must divide the 12 images of a process: 6\?"):
        Layout(12, 6).check(RLConfig())
    with pytest.raises(ValueError, match="multiple of 4 processes"):
        Layout(12, 6, 4).check(RLConfig(sft_weight=0.1))


def test_an_iteration_in_words():
    assert Layout(256, 16, 4, 0).words(RLConfig(updates=2)) == (
        "an iteration: 16 rows x 16 images = 256 images. Each of 4 processes samples 64 of them, 8 x 8 at once (two "
        "rows an image under guidance), in 10 steps. Then 2 optimiser steps, each on up to 128 images x 9 of 10 "
        "sampling steps, accumulated over micro-batches of 8 a process."
    )
