import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unipic2_connector.connector import ConnectorConfig, StableDiffusion3Conditioner


@pytest.mark.parametrize("case", ["conditioner", "t2i", "edit"])
def test_equals_the_released_implementation(conditioner, parity, case):
    with torch.no_grad():
        embeds, pooled = conditioner(parity[f"{case}.query_states"])
    assert (embeds - parity[f"{case}.prompt_embeds"]).abs().max() < 1e-5
    assert (pooled - parity[f"{case}.pooled_prompt_embeds"]).abs().max() < 1e-5


def tanh_gelu(values):
    return F.gelu(values, approximate="tanh")


def reference(ours):
    """The same encoder by PyTorch's own layers, with our weights."""
    layers = nn.ModuleList(
        nn.TransformerEncoderLayer(
            24, 3, 40, dropout=0.0, activation=tanh_gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        for _ in ours.connector.layers
    )
    for theirs, layer in zip(layers, ours.connector.layers, strict=True):
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights = {
            "self_attn.in_proj_weight": torch.cat([part.weight for part in parts]),
            "self_attn.in_proj_bias": torch.cat([part.bias for part in parts]),
        }
        names = {
            "self_attn.out_proj": attention.out_proj,
            "linear1": layer.mlp.fc1,
            "linear2": layer.mlp.fc2,
            "norm1": layer.layer_norm1,
            "norm2": layer.layer_norm2,
        }
        for name, module in names.items():
            weights |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
        theirs.load_state_dict({name: value.detach().clone() for name, value in weights.items()})
    return layers


def test_values_and_gradients_equal_pytorchs_layers(build):
    ours = build()
    for layer in ours.connector.layers:
        for norm in (layer.layer_norm1, layer.layer_norm2):
            nn.init.normal_(norm.weight, mean=1.0, std=0.3)  # ones would hide a swapped weight
    layers = reference(ours)
    states = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    copied = states.detach().clone().requires_grad_()
    tokens = ours.projector_1(copied)
    for layer in layers:
        tokens = layer(tokens)
    embeds, pooled = ours(states)
    torch.testing.assert_close(embeds, ours.projector_3(tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, ours.projector_2(tokens.mean(1)), atol=1e-5, rtol=1e-5)
    (embeds.sin().sum() + pooled.sum()).backward()
    (ours.projector_3(tokens).sin().sum() + ours.projector_2(tokens.mean(1)).sum()).backward()
    torch.testing.assert_close(states.grad, copied.grad, atol=1e-5, rtol=1e-4)
    first = ours.connector.layers[0]
    torch.testing.assert_close(first.mlp.fc1.weight.grad, layers[0].linear1.weight.grad, atol=1e-5, rtol=1e-4)


def test_every_query_sees_every_other(build):
    network = build().eval()
    states = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for query in (0, 4):
        states.grad = None
        network(states).prompt_embeds[0, query].sum().backward()
        assert (states.grad[0].abs().amax(dim=-1) > 0).all()


def test_rows_do_not_depend_on_their_neighbours(conditioner, parity):
    states = parity["conditioner.query_states"]
    together, alone = conditioner(states), conditioner(states[1:])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:], b)


def test_queries_start_with_the_norm_of_a_token(build):
    queries = build(num_queries=400, llm_hidden_size=64).meta_queries
    assert queries.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert queries.mean().abs() < 0.01


def test_zeros_would_meet_the_norm_of_the_vlm_with_a_large_gradient(build):
    """Why queries do not start as zeros, as those of the released class do."""

    def gradient(queries):
        queries = queries.detach().clone().requires_grad_()
        (F.rms_norm(queries, queries.shape[-1:], eps=1e-6) * torch.linspace(-1, 1, 64)).sum().backward()
        return queries.grad.norm()

    queries = build(num_queries=4, llm_hidden_size=64).meta_queries
    assert gradient(torch.zeros_like(queries)) > 100 * gradient(queries)


def test_gradient_checkpointing_changes_no_gradient_and_recomputes(build):
    gradients, calls = [], []
    for checkpointed in (False, True):
        network = build()
        network.connector.layers[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        if checkpointed:
            network.enable_gradient_checkpointing()
        network(torch.ones(2, 5, 16)).prompt_embeds.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert len(calls) == 1 + 2
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_states_of_several_layers_make_the_first_projection_wider(build):
    network = build(vlm_layers=(2, -1))
    assert network.projector_1.in_features == 32
    assert network.meta_queries.shape == (5, 16)
    assert network(torch.zeros(1, 5, 32)).prompt_embeds.shape == (1, 5, 20)
    with pytest.raises(ValueError, match="width 16, expected 32: llm_hidden_size 16 times 2"):
        network(torch.zeros(1, 5, 16))


def test_states_in_another_dtype_are_cast(build):
    network = build()
    assert network(torch.zeros(1, 5, 16, dtype=torch.bfloat16)).prompt_embeds.dtype == torch.float32
    assert network.to(torch.bfloat16)(torch.zeros(1, 5, 16)).pooled_projections.dtype == torch.bfloat16


def test_the_released_sizes_have_about_a_billion_weights():
    with torch.device("meta"):
        network = StableDiffusion3Conditioner(
            {
                "hidden_size": 1536,
                "intermediate_size": 8960,
                "num_hidden_layers": 24,
                "num_attention_heads": 24,
                "_attn_implementation": "flash_attention_2",
            }
        )
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert shapes["meta_queries"] == (256, 3584)
    assert shapes["projector_1.weight"] == (1536, 3584)
    assert shapes["projector_2.weight"] == (2048, 1536)
    assert shapes["projector_3.weight"] == (4096, 1536)
    assert len(shapes) == 1 + 3 * 2 + 24 * 16
    assert 0.8e9 < sum(parameter.numel() for parameter in network.parameters()) < 1.0e9


def test_options_that_are_off_are_not_in_the_saved_config(build):
    plain = json.loads(build().to_json_string())
    assert not plain.keys() & {"vlm_positions", "vlm_layers"}
    other = json.loads(build(vlm_positions="mrope", vlm_layers=(1, -1)).to_json_string())
    assert (other["vlm_positions"], other["vlm_layers"]) == ("mrope", [1, -1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 5}, "5 heads"),
        ({"hidden_act": "relu"}, r"not supported: hidden_act 'relu' \(only 'gelu_pytorch_tanh'\)"),
        ({"heads": 3}, "unknown: heads"),
    ],
)
def test_impossible_encoders_are_refused(change, message):
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    with pytest.raises(ValueError, match=message):
        ConnectorConfig.of({**sizes, **change})
    with pytest.raises(ValueError, match="missing: hidden_size"):
        ConnectorConfig.of({name: value for name, value in sizes.items() if name != "hidden_size"})


@pytest.mark.parametrize(
    ("overrides", "message"), [({"vlm_positions": "2d"}, "known are '1d', 'mrope'"), ({"vlm_layers": ()}, "is empty")]
)
def test_impossible_options_are_refused(build, overrides, message):
    with pytest.raises(ValueError, match=message):
        build(**overrides)
