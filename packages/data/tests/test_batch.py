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
        target_bytes=torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
    )
    moved = batch.to("meta")
    assert moved.pixels.device.type == moved.visits.device.type == "meta"
    assert moved.references is None
    assert moved.prompts == ["x", "y"]
    assert batch.pixels.device.type == "cpu"
    assert len(moved) == 2
    assert moved.upscaled == 1


def test_bytes_become_floats():
    values = torch.arange(2 * 4 * 6 * 3, dtype=torch.uint8).reshape(2, 4, 6, 3)
    batch = Batch("edit", ["a", "b"], torch.zeros(2), ["", ""], (4, 6), torch.ones(2), [{}, {}], values, values.flip(0))
    assert batch.pixels.shape == (2, 3, 4, 6)
    assert batch.pixels.is_contiguous()
    assert torch.equal(batch.pixels, values.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert torch.equal(batch.references, batch.pixels.flip(0))
    assert batch.pixels.min() == -1
