import json
import shutil
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.trainer.states import TrainerFn

from unipic2_data.buckets import Buckets
from unipic2_data.errors import DataError
from unipic2_data.sources import Source
from unipic2_dit.resolution import Sizes
from unipic2_train.datamodule import ShardData


@pytest.fixture
def data(shapes, tmp_path):
    def make(world=1, rank=0, accumulate=1, step=0, fn=TrainerFn.FITTING, **options):
        made = ShardData(**{"path": str(shapes), "size": 32, "global_batch": 8, **options})
        made.trainer = SimpleNamespace(
            world_size=world,
            global_rank=rank,
            accumulate_grad_batches=accumulate,
            global_step=step,
            state=SimpleNamespace(fn=fn),
            default_root_dir=str(tmp_path),
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


def parsed(**values):
    """Return the options as a recipe's YAML gives them."""
    parser = ArgumentParser()
    parser.add_class_arguments(ShardData, "data")
    return parser.instantiate(parser.parse_object({"data": values})).data


def test_a_recipe_names_sources_and_buckets(shapes):
    made = parsed(
        path=str(shapes),
        size=32,
        global_batch=8,
        sources=[{"path": str(shapes), "weight": 3}, {"path": "tars/{00..11}.tar", "weight": 1, "kind": "edit"}],
        buckets={"resolutions": [16, 32]},
    )
    assert [source.weight for source in made.sources] == [3, 1]
    assert made.sources[1].is_stream
    assert made.buckets == Buckets([16, 32])


def test_sources_are_checked_before_the_run(shapes, tmp_path):
    options = {"seed": 0, "global_batch": 8, "tasks": None, "buckets": None, "path": str(shapes)}
    ShardData.check(Namespace(**options, sources=[vars_of(Source(str(shapes), scores=[]))]))
    with pytest.raises(DataError, match="no data set at"):
        ShardData.check(Namespace(**options, sources=[vars_of(Source(str(tmp_path)))]))
    with pytest.raises(DataError, match="no samples to train on"):
        ShardData.check(Namespace(**options, sources=[vars_of(Source(str(shapes), licences=["MIT"]))]))


def vars_of(source):
    return Namespace(**vars(source))


def test_sources_are_mixed_and_part_of_what_a_resumed_run_needs(data, shapes):
    sources = [Source(str(shapes), weight=1), Source(str(shapes), weight=3)]
    made = data(sources=sources, tasks={"t2i": 1})
    loader = made.train_dataloader()
    assert [cell.source for cell in loader.plan.cells] == [0, 0, 1, 1]
    assert sorted(loader.plan.step(0).cells.tolist()) == [0, 0, 2, 2, 2, 2, 2, 2]
    assert made.kinds == ["t2i"]
    assert made.has_ground_truth
    state = made.state_dict()
    data(sources=sources, tasks={"t2i": 1}).load_state_dict(state)
    with pytest.raises(ValueError, match=r"another sequence of batches \(sources: "):
        data(sources=sources[:1], tasks={"t2i": 1}).load_state_dict(state)


def test_buckets_are_multiples_of_what_the_model_makes(data, foundation, transformer, frozen):
    made = data(buckets=Buckets([16, 32], upscale=True))
    made.trainer.lightning_module = SimpleNamespace(kontext=SimpleNamespace(transformer=transformer, frozen=frozen))
    loader = made.train_dataloader()
    assert {cell.size for cell in loader.plan.cells} == {(32, 32)}
    assert next(iter(loader)).size == (32, 32)
    multiple = Sizes.of(transformer, frozen.vae).multiple
    assert made._multiple() == multiple
    made.trainer.lightning_module = SimpleNamespace(vae=frozen.vae)
    assert made._multiple() == multiple // transformer.config.patch_size


def test_what_is_left_of_streams_rides_in_the_checkpoint(data, shapes):
    tar = next((shapes / "train").glob("t2i-*.tar"))
    sources = [Source(str(tar))]
    first = data(sources=sources)
    batches = iter(first.train_dataloader())
    assert first.state_dict()["streams"] == {0: {"left": [], "following": 0}}
    for _ in range(4):  # 24 samples in the tar
        next(batches)
    state = first.state_dict()
    assert state["streams"] == {0: {"left": [], "following": 1}}
    second = data(sources=sources, step=4)
    second.load_state_dict(state)
    loader = second.train_dataloader()
    next(iter(loader))
    assert second.state_dict()["streams"] == state["streams"]


def test_a_bad_sample_is_named_in_the_runs_folder(data, shapes, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "data")
    tar = next((folder / "train").glob("t2i-*.tar"))
    content = tar.read_bytes()
    place = content.index(b"\x89PNG") + 60
    tar.write_bytes(content[:place] + bytes(40) + content[place + 40 :])
    made = data(path=str(folder), tasks={"t2i": 1})
    weights = [batch.weight.sum() for batch, _ in zip(made.train_dataloader(), range(3), strict=False)]
    assert sorted(weights) == [7, 8, 8]
    (line,) = (tmp_path / "quarantine" / "rank-0.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "picture is unreadable"


def read_streams(rank, sources, data, store, results):
    """Read some batches as one of two ranks, and send the state of the data."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    made = data(world=2, rank=rank, sources=sources)
    batches = iter(made.train_dataloader())
    for _ in range(7 if rank == 0 else 3):
        next(batches)
    results.send(made.state_dict()["streams"])
    dist.destroy_process_group()


def test_all_ranks_know_what_is_left_of_streams(data, shapes, tmp_path):
    for number in range(4):
        shutil.copy(next((shapes / "train").glob("t2i-*.tar")), tmp_path / f"{number}.tar")
    sources = [Source(f"{tmp_path}/{{0..3}}.tar")]
    context = get_context("fork")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=read_streams, args=(rank, sources, data, tmp_path / "store", pipe))
        for rank, (_, pipe) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    states = [ours.recv() for ours, _ in pipes]
    for process in processes:
        process.join()
    assert states[0] == states[1] == {0: {"left": [1], "following": 2}}  # the first rank has finished its first tar
