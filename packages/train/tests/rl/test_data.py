"""The rows of an iteration: a function of its number, the same wherever one starts."""

from types import SimpleNamespace

import pytest
import torch

from unipic2_data.errors import DataError
from unipic2_train.rl.data import RolloutData
from unipic2_train.rl.prompts import PromptsConfig

PROMPTS = PromptsConfig("shapes", rows=170)


def data(shapes, step=0, **changes):
    values = {"size": 32, "global_batch": 16, "group_size": 4, "tasks": {"edit": 1}} | changes
    made = RolloutData(str(shapes), **values)
    made.trainer = SimpleNamespace(world_size=2, global_rank=1, global_step=step)
    made.setup("fit")
    return made


def first(made, count):
    return [batch for batch, _ in zip(made.train_dataloader(), range(count), strict=False)]


@pytest.mark.parametrize("changes", [{}, {"tasks": {"t2i": 1}}, {"tasks": {"t2i": 1}, "prompts": PROMPTS}])
def test_rows_depend_on_the_iteration_alone(shapes, changes):
    whole, later = first(data(shapes, **changes), 12), first(data(shapes, 5, **changes), 7)
    for one, other in zip(whole[5:], later, strict=True):
        assert (one.keys, one.prompts) == (other.keys, other.prompts)
        assert torch.equal(one.visits, other.visits)
    assert len(whole[0]) == 4, "a row a group, all of them on every process"
    seen = [(key, visit) for batch in whole for key, visit in zip(batch.keys, batch.visits.tolist(), strict=True)]
    assert len(set(seen)) == len(seen), "a row that comes again is another visit"


def test_generated_prompts_bring_what_a_scorer_needs_and_no_pictures(shapes):
    (batch,) = first(data(shapes, tasks={"t2i": 1}, prompts=PROMPTS), 1)
    assert batch.kind == "t2i"
    assert batch.pixels is batch.references is None
    assert all(
        meta["shapes"]["metadata"]["prompt"] == text for meta, text in zip(batch.meta, batch.prompts, strict=True)
    )


def test_edits_bring_their_pictures(shapes):
    (batch,) = first(data(shapes), 1)
    assert batch.references.shape == batch.pixels.shape == (4, 3, 32, 32)


def test_mixed_tasks_take_turns_and_both_are_always_evaluated(shapes):
    mixed = data(shapes, tasks={"t2i": 1, "edit": 2}, prompts=PROMPTS)
    assert [batch.kind for batch in first(mixed, 6)].count("edit") == 4
    assert data(shapes).kinds == mixed.kinds == ["t2i", "edit"]


def test_what_cannot_be_trained_on_is_said_before_the_run(shapes):
    values = {
        "path": str(shapes),
        "global_batch": 16,
        "group_size": 4,
        "tasks": {"poem": 1},
        "seed": 0,
        "prompts": None,
    }
    with pytest.raises(DataError, match="poem"):
        RolloutData.check(SimpleNamespace(**values))
    with pytest.raises(ValueError, match="no multiple of 5 images a group"):
        RolloutData.check(SimpleNamespace(**values | {"group_size": 5}))
    RolloutData.check(SimpleNamespace(**values | {"tasks": {"t2i": 1}, "prompts": PROMPTS}))


def test_another_group_size_is_another_sequence(shapes):
    assert data(shapes).state_dict() != data(shapes, group_size=8).state_dict()
    assert data(shapes).state_dict() != data(shapes, prompts=PROMPTS).state_dict()
