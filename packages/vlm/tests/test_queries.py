import pytest
import torch

from unipic2_vlm.checkpoint import CheckpointError
from unipic2_vlm.queries import QueryEncoder

PROMPTS = ["a red circle left of the blue square", "", "blue"]


@pytest.fixture(scope="module")
def queries():
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(1)) * 32**-0.5


def test_a_row_does_not_depend_on_its_neighbours(small, queries, picture):
    pictures = [picture(1), picture(2, width=64), picture(3, height=16)]
    for images in (None, pictures):
        together = small(PROMPTS, queries, images=images)
        assert together.shape == (3, 5, 32)
        for index, prompt in enumerate(PROMPTS):
            alone = small([prompt], queries, images=images and images[index : index + 1])
            assert (together[index] - alone[0]).abs().max() < 1e-5


def test_prompt_picture_kind_positions_and_layers_all_matter(small, queries, picture):
    usual = small(["make it red"], queries, images=[picture(1)])
    others = [
        small(["make it blue"], queries, images=[picture(1)]),
        small(["make it red"], queries, images=[picture(2)]),
        small(["make it red"], queries, edit=True),
        small(["make it red"], queries),
        small(["make it red"], queries, images=[picture(1)], positions="mrope"),
        small(["make it red"], queries, images=[picture(1)], layers=(1,)),
    ]
    for other in others:
        assert (usual - other).abs().max() > 1e-3
    assert small(["make it red"], queries, images=[picture(1)], layers=(1, -1)).shape == (1, 5, 64)


def test_the_dit_decides_how_large_the_picture_is(small, queries, picture):
    coarse = QueryEncoder(small.backbone, small.processor, 16)
    assert (coarse(["x"], queries, images=[picture(1)]) - small(["x"], queries, images=[picture(1)])).abs().max() > 1e-3
    resized = small(["x"], queries, images=[picture(1).resize((16, 16))])
    assert torch.equal(coarse(["x"], queries, images=[picture(1)]), resized)


def test_gradients_reach_the_queries(small, queries, picture):
    learned = queries.clone().requires_grad_()
    small(["x"], learned, images=[picture(1)]).sum().backward()
    assert (learned.grad.abs().amax(dim=1) > 0).all()


def test_parts_of_two_models_are_refused(backbone, small):
    with pytest.raises(CheckpointError, match="take both from one folder"):
        QueryEncoder(backbone, small.processor, 8)
