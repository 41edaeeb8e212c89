import json
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from unipic2_dit.transformer import SD3Transformer2DKontextModel

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
CONFIG = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 20,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 12,
    "pos_embed_max_size": 8,
    "dual_attention_layers": (0, 1),
    "qk_norm": "rms_norm",
}


def inputs(rows=2, height=8, width=8, dim=20, pooled=12, tokens=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(rows, 4, height, width, generator=rng),
        "encoder_hidden_states": torch.randn(rows, tokens, dim, generator=rng),
        "pooled_projections": torch.randn(rows, pooled, generator=rng),
        "timestep": torch.rand(rows, generator=rng) * 1000,
    }


def model(seed=0, **overrides):
    torch.manual_seed(seed)
    built = SD3Transformer2DKontextModel(**{**CONFIG, **overrides})
    for name, parameter in built.named_parameters():
        if "norm_" in name and parameter.ndim == 1 and not name.startswith("norm_out"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)  # ones would hide a swapped weight
    return built


def run(transformer, **kwargs):
    return transformer(**kwargs, return_dict=False)[0]


@pytest.mark.parametrize("case", ["t2i", "edit"])
def test_equals_the_released_implementation(transformer, parity_tensors, case):
    names = ["hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"]
    given = {name: parity_tensors[f"transformer.{name}"] for name in names}
    if case == "edit":
        given["ref_hidden_states"] = parity_tensors["transformer.ref_hidden_states"]
    with torch.no_grad():
        velocity = run(transformer, **given)
    assert (velocity - parity_tensors[f"transformer.out_{case}"]).abs().max() < 1e-5


@pytest.mark.parametrize("overrides", [{}, {"qk_norm": None, "dual_attention_layers": ()}, {"num_layers": 1}])
def test_values_and_gradients_equal_diffusers(overrides):
    ours = model(**overrides)
    theirs = SD3Transformer2DModel(**{**CONFIG, **overrides})
    theirs.load_state_dict(ours.state_dict())
    weights = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    for network in (ours, theirs):
        (run(network, **inputs(width=6)) * weights).sum().backward()
    torch.testing.assert_close(run(ours, **inputs(width=6)), run(theirs, **inputs(width=6)), atol=1e-5, rtol=1e-5)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=2e-4, rtol=1e-4, msg=name)


def test_2b_config_has_the_keys_and_shapes_of_sd35_medium():
    golden = json.loads((GOLDEN / "sd35_medium" / "transformer_keys.json").read_text())
    with torch.device("meta"):
        built = SD3Transformer2DKontextModel.from_config(golden["config"])
    assert {key: list(value.shape) for key, value in built.state_dict().items()} == golden["shapes"]
    assert sum(parameter.numel() for parameter in built.parameters()) == golden["num_parameters"]


def test_reference_of_another_size_changes_only_what_it_should():
    network = model().eval()
    reference = torch.randn(2, 4, 4, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        small = run(network, **inputs(), ref_hidden_states=reference)
        plain = run(network, **inputs())
    assert small.shape == plain.shape
    assert (small - plain).abs().max() > 1e-3
    # A reference's tokens get the centre crop of the table for their own size, whatever the target's size is.
    embedded = network._embed(reference)
    expected = network.pos_embed.proj(reference).flatten(2).transpose(1, 2) + network.pos_embed.cropped_pos_embed(4, 12)
    assert torch.equal(embedded, expected)


def test_order_of_reference_and_target_rows_does_not_matter():
    network = model().eval()
    reference = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    given = inputs()
    with torch.no_grad():
        both = run(network, **given, ref_hidden_states=reference)
        flipped = run(network, **{k: v.flip(0) for k, v in given.items()}, ref_hidden_states=reference.flip(0))
    torch.testing.assert_close(both, flipped.flip(0), atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointed in (False, True):
        network = model()
        if checkpointed:
            network.enable_gradient_checkpointing()
        run(network, **inputs(), ref_hidden_states=torch.ones(2, 4, 8, 8)).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_close_to_float32(autocast):
    network = model().eval()
    with torch.no_grad():
        expected = run(network, **inputs())
        if autocast:
            with torch.autocast("cpu", torch.bfloat16):
                velocity = run(network, **inputs())
        else:
            velocity = run(network.to(torch.bfloat16), **inputs())
    assert velocity.dtype == torch.bfloat16
    assert (velocity.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_bfloat16_weights_still_see_the_exact_timestep():
    network = model().to(torch.bfloat16)
    seen = []
    network.time_text_embed.time_proj.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    given = inputs()
    run(network, **given)
    assert torch.equal(seen[0], given["timestep"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"caption_projection_dim": 16}, "set it to 32"), ({"qk_norm": "layer_norm"}, "known are 'rms_norm'")],
)
def test_impossible_config_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        model(**overrides)


def test_impossible_input_is_refused():
    network = model()
    with pytest.raises(ValueError, match="use multiples"):
        run(network, **inputs(height=7))
    with pytest.raises(ValueError, match="pos_embed_max_size"):
        run(network, **inputs(height=18))
    with pytest.raises(ValueError, match="only 'scale'"):
        run(network, **inputs(), joint_attention_kwargs={"ip_adapter_image_embeds": None})
