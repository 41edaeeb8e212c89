import pytest
import torch

from unipic2_vlm.backbone import QwenVLBackbone
from unipic2_vlm.frozen import FrozenProof, NotFrozenError, tensor_hashes


def test_training_queries_leaves_the_vlm_as_it_was(small, picture):
    proof = FrozenProof.of(small.backbone)
    queries = torch.nn.Parameter(torch.randn(4, 32) * 0.2)
    optimizer = torch.optim.AdamW([queries, *small.backbone.parameters()], lr=0.1, weight_decay=0.1)
    before = queries.detach().clone()
    small(["a red circle"], queries, images=[picture()]).sum().backward()
    optimizer.step()
    assert not torch.equal(before, queries)
    proof.verify(small.backbone)


@pytest.mark.parametrize("name", ["model.visual.merger.ln_q.weight", "model.language_model.norm.weight"])
def test_one_changed_bit_is_named(backbone, name):
    proof = FrozenProof.of(backbone)
    weight = backbone.model.get_parameter(name)
    weight.data.view(-1).view(torch.int32)[0] ^= 1
    with pytest.raises(NotFrozenError, match=f"changed: {name}\\.$"):
        proof.verify(backbone)


def test_long_lists_are_cut(backbone):
    proof = FrozenProof.of(backbone)
    backbone.model.bfloat16()
    with pytest.raises(NotFrozenError, match="and 49 more"):
        proof.verify(backbone)


def test_logits_are_compared_too(backbone):
    proof = FrozenProof.of(backbone)
    backbone.model.model.language_model.layers[0].self_attn.scaling *= 1.01
    with pytest.raises(NotFrozenError, match="its logits differ by up to"):
        proof.verify(backbone)


def test_the_digest_is_of_the_weights_alone(backbone, parity_folder):
    again = QwenVLBackbone.from_pretrained(parity_folder)
    digest = FrozenProof.of(backbone).digest
    assert digest == FrozenProof.of(again).digest
    assert len(digest) == 64
    assert FrozenProof.of(QwenVLBackbone(again.model.bfloat16())).digest != digest


def test_dtype_and_shape_are_part_of_a_hash():
    def only(tensor):
        module = torch.nn.Module()
        module.register_buffer("x", tensor)
        return tensor_hashes(module)["x"]

    hashes = {
        only(torch.zeros(4)),
        only(torch.zeros(2, 2)),
        only(torch.zeros(4, dtype=torch.int32)),
        only(torch.tensor(0.0)),
    }
    assert len(hashes) == 4
