import pytest
import torch
from torch import nn

from unipic2_connector.conditioner import MetaQueryConditioner


class ByteModel(nn.Module):
    """A frozen causal transformer over bytes that reads queries: a VLM as this package knows it."""

    hidden_size = 16

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.embed = nn.Embedding(256, 16)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(2))
        self.requires_grad_(False)
        self.asked = []

    def __call__(self, prompts, queries, *, images, edit, positions, layers):
        self.asked.append({"images": images, "edit": edit, "positions": positions, "layers": layers})
        rows = []
        for prompt in prompts:
            tokens = torch.cat((self.embed(torch.tensor([*b"> ", *prompt.encode()])), queries))[None]
            states = [tokens]
            mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
            for layer in self.layers:
                states.append(layer(states[-1], src_mask=mask))
            rows.append(torch.cat([states[index][:, -len(queries) :] for index in layers], dim=-1))
        return torch.cat(rows)


def test_prompts_become_conditioning_and_the_queries_learn(build):
    network, vlm = build(), ByteModel()
    metaquery = MetaQueryConditioner(vlm, network)
    conditioning = metaquery(["a red circle", ""])
    assert metaquery.num_tokens == 5
    assert conditioning.prompt_embeds.shape == (2, 5, 20)
    assert conditioning.pooled_projections.shape == (2, 12)
    assert (conditioning.prompt_embeds[0] - conditioning.prompt_embeds[1]).abs().max() > 1e-3
    (conditioning.prompt_embeds.sum() + conditioning.pooled_projections.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert (network.meta_queries.grad.abs().amax(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in vlm.parameters())


def test_a_few_steps_learn_to_tell_prompts_apart(build):
    """Queries and connector alone can carry what a frozen model knows of a prompt."""
    metaquery = MetaQueryConditioner(ByteModel(), build())
    target = torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW(metaquery.conditioner.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (metaquery(["red", "blue"]).prompt_embeds - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_what_the_config_says_reaches_the_vlm(build):
    vlm = ByteModel()
    MetaQueryConditioner(vlm, build())(["x"])
    MetaQueryConditioner(vlm, build(vlm_positions="mrope", vlm_layers=[1, -1]))(["x"], ["picture"], edit=True)
    assert vlm.asked == [
        {"images": None, "edit": False, "positions": "1d", "layers": (-1,)},
        {"images": ["picture"], "edit": True, "positions": "mrope", "layers": (1, -1)},
    ]


def test_a_frozen_conditioner_makes_no_graph(build):
    metaquery = MetaQueryConditioner(ByteModel(), build().requires_grad_(False))
    assert not metaquery(["x"]).prompt_embeds.requires_grad


def test_results_in_another_dtype(build):
    conditioning = MetaQueryConditioner(ByteModel(), build())(["x"], dtype=torch.bfloat16, device="cpu")
    assert {part.dtype for part in conditioning} == {torch.bfloat16}


def test_a_vlm_of_another_size_is_refused(build):
    with pytest.raises(ValueError, match="hidden size 24, but this one's is 16"):
        MetaQueryConditioner(ByteModel(), build(llm_hidden_size=24))
