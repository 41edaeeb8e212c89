"""The VLM and the connector together, real packages on both sides: what the released scripts make of a prompt."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unipic2_connector import MetaQueryConditioner, StableDiffusion3Conditioner, load_conditioner
from unipic2_vlm import FrozenProof, QueryEncoder, QwenVLBackbone
from unipic2_vlm.small import SmallVlmConfig, write_small_vlm

GOLDEN = Path(__file__).parents[1] / "golden" / "metaquery"
WORDS = ["red", "blue", "circle", "square", "make", "it"]


@pytest.mark.parametrize("case", ["t2i", "edit"])
def test_token_ids_become_the_released_conditioning(case):
    backbone, conditioner = QwenVLBackbone.from_pretrained(GOLDEN / "vlm"), load_conditioner(GOLDEN)
    tensors = load_file(GOLDEN / "vlm_tensors.safetensors")
    given = {name: tensors[f"{case}.{name}"] for name in ("input_ids", "attention_mask")}
    if case == "edit":
        given |= {name: tensors[name] for name in ("pixel_values", "image_grid_thw")}
    with torch.no_grad():
        embeds, pooled = conditioner(backbone.query_states(**given, queries=conditioner.meta_queries))
    assert (embeds - tensors[f"{case}.prompt_embeds"]).abs().max() < 1e-5
    assert (pooled - tensors[f"{case}.pooled_prompt_embeds"]).abs().max() < 1e-5


@pytest.fixture
def metaquery(tmp_path):
    """A small VLM and a connector that reads two of its layers."""
    sizes = SmallVlmConfig(width=32, num_layers=2, num_heads=2, vision_width=16, vision_layers=2, vision_heads=2)
    write_small_vlm(tmp_path, WORDS, sizes)
    torch.manual_seed(0)
    conditioner = StableDiffusion3Conditioner(
        {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2},
        num_queries=4,
        llm_hidden_size=32,
        pooled_projection_dim=8,
        joint_attention_dim=16,
        vlm_positions="mrope",
        vlm_layers=(1, -1),
    )
    return MetaQueryConditioner(QueryEncoder.from_pretrained(tmp_path, 8), conditioner)


def test_pictures_of_both_kinds_matter_and_only_the_conditioner_learns(metaquery):
    proof = FrozenProof.of(metaquery.vlm.backbone)
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    shown = metaquery(["make it red", "make it red"], pictures)
    pixels = torch.stack([torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, -1, 1])])[..., None, None]
    torch.testing.assert_close(shown, metaquery(["make it red"] * 2, pixels.expand(2, 3, 32, 32)))
    assert (shown.prompt_embeds[0] - shown.prompt_embeds[1]).abs().max() > 1e-3
    optimizer = torch.optim.SGD(metaquery.conditioner.parameters(), lr=0.1)
    sum(part.sum() for part in shown).backward()
    assert all(parameter.grad is not None for parameter in metaquery.conditioner.parameters())
    optimizer.step()
    proof.verify(metaquery.vlm.backbone)
