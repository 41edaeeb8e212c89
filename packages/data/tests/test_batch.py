import torch

from unipic2_data.batch import Batch


def test_to_moves_tensors_and_keeps_the_rest():
    batch = Batch(
        kind="t2i",
        keys=["a", "b"],
        visits=torch.zeros(2, dtype=torch.int64),
        prompts=["x", "y"],
        size=(4, 4),
        weight=torch.ones(2),
        meta=[{}, {"upscale": 2.0}],
        pixels=torch.zeros(2, 3, 4, 4),
    )
    moved = batch.to("meta")
    assert moved.pixels.device.type == moved.visits.device.type == "meta"
    assert moved.references is None
    assert moved.prompts == ["x", "y"]
    assert batch.pixels.device.type == "cpu"
    assert len(moved) == 2
    assert moved.upscaled == 1
