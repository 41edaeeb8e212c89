import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import nn

from unipic2_dit import StableDiffusion3KontextPipeline, quantization
from unipic2_dit.checkpoint import CheckpointError, load_component, load_lora, load_pipeline, load_transformer
from unipic2_dit.quantization import count_parameters, stored_bytes

LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}


@pytest.fixture(params=["int8", "nf4"])
def kind(request):
    """A quantization whose library is here."""
    pytest.importorskip(LIBRARIES[request.param])
    return request.param


def whole(layer, kind):
    """The matrix that a quantised layer stands for."""
    if kind == "int8":
        return layer.weight.dequantize()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def weight_error(exact, quantised, kind):
    """The relative error of all matrices together."""
    pairs = [(layer.weight, whole(quantised.get_submodule(key), kind)) for key, layer in exact.items()]
    wrong = sum((found - true).square().sum() for true, found in pairs)
    return float((wrong / sum(true.square().sum() for true, _ in pairs)).sqrt().detach())


def blocks_of(model):
    """Linear layers of the blocks by name."""
    return {
        key: each
        for key, each in model.named_modules()
        if ".block." in key or "_blocks." in key
        if isinstance(each, nn.Linear)
    }


def inputs(transformer, rows=3):
    config = transformer.config
    rng = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(rows, config.in_channels, 8, 8, generator=rng),
        "ref_hidden_states": torch.randn(rows, config.in_channels, 8, 8, generator=rng),
        "encoder_hidden_states": torch.randn(rows, 5, config.joint_attention_dim, generator=rng),
        "pooled_projections": torch.randn(rows, config.pooled_projection_dim, generator=rng),
        "timestep": torch.rand(rows, generator=rng) * 1000,
    }


@torch.no_grad()
def velocity(transformer, given):
    return transformer(**given).sample


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_matrices_are_as_near_as_their_grids_allow(checkpoint, kind):
    exact, quantised = blocks_of(load_transformer(checkpoint)), load_transformer(checkpoint, quantization=kind)
    assert len(exact) > 30
    for key, layer in exact.items():
        weight = layer.weight.detach()
        wrong = (whole(quantised.get_submodule(key), kind) - weight).abs()
        if kind == "int8":  # half a step of a grid of 127 steps up to the row's largest
            assert (wrong <= weight.abs().amax(dim=1, keepdim=True) * (0.5001 / 127)).all(), key
        else:  # half of NF4's widest gap, from -1 to -0.696 of the block's largest, and that one's own 8 bits
            largest = weight.flatten().unflatten(0, (-1, 64)).abs().amax(dim=1, keepdim=True)
            assert (wrong.flatten().unflatten(0, (-1, 64)) <= largest * 0.17).all(), key
            assert wrong.max() > 0


def test_velocity_is_as_near_as_the_matrices(checkpoint, kind):
    """Errors of many matrices are independent and mostly cancel, and some of the velocity passes all blocks by."""
    exact, quantised = load_transformer(checkpoint), load_transformer(checkpoint, quantization=kind)
    given = inputs(exact)
    error = relative(velocity(quantised, given), velocity(exact, given))
    of_matrices = weight_error(blocks_of(exact), quantised, kind)
    assert of_matrices < {"int8": 0.01, "nf4": 0.11}[kind]
    assert of_matrices / 100 < error < of_matrices


def test_a_row_does_not_depend_on_the_others(checkpoint, kind):
    transformer = load_transformer(checkpoint, quantization=kind)
    given = inputs(transformer)
    alone = velocity(transformer, {key: each[1:2] for key, each in given.items()})
    torch.testing.assert_close(velocity(transformer, given)[1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rest_is_whole_and_memory_is_counted(checkpoint, kind, dtype):
    exact = load_transformer(checkpoint, dtype=dtype)
    quantised = load_transformer(checkpoint, dtype=dtype, quantization=kind)
    assert not quantised.training
    assert quantised.dtype == dtype
    assert count_parameters(quantised) == count_parameters(exact)
    layers = blocks_of(exact)
    small = {key: each for key, each in quantised.state_dict().items() if ".weight." not in key}
    saved = 0.0
    for key, each in exact.state_dict().items():
        if key.endswith(".weight") and key.removesuffix(".weight") in layers:
            rows, columns = each.shape
            kept = rows * (columns + 5) if kind == "int8" else rows * columns * (1 / 2 + 1 / 64)
            saved += each.nbytes - kept
        else:
            assert torch.equal(small[key], each), key
    # NF4 has tables beside each matrix, which only matter where matrices are tiny.
    tables = 1500 * len(layers) if kind == "nf4" else 0
    assert 0 <= stored_bytes(quantised) - (stored_bytes(exact) - saved) <= tables


def test_t5(checkpoint, kind):
    exact = load_component(checkpoint, "text_encoder_3")
    quantised = load_component(checkpoint, "text_encoder_3", quantization=kind)
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        error = relative(quantised(ids)[0], exact(ids)[0])
    # The relative error of a matrix product is the matrix's; a few of them follow one another in two layers.
    assert 0 < error < 2 * weight_error(blocks_of(exact), quantised, kind) < {"int8": 0.02, "nf4": 0.22}[kind]
    assert quantised.shared.weight is quantised.encoder.embed_tokens.weight


def test_adapters_add_the_same(checkpoint, kind, tmp_path):
    network = load_transformer(checkpoint)
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_out.0"]))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    StableDiffusion3KontextPipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=get_peft_model_state_dict(network)
    )
    added = []
    for quantized in (None, kind):
        pipeline = load_pipeline(checkpoint, use_text=False)
        pipeline.register_modules(transformer=load_transformer(checkpoint, quantization=quantized))
        before = velocity(pipeline.transformer, inputs(network))
        load_lora(pipeline, tmp_path)
        added.append(velocity(pipeline.transformer, inputs(network)) - before)
        pipeline.set_adapters(pipeline.get_list_adapters()["transformer"], [0.0])
        torch.testing.assert_close(velocity(pipeline.transformer, inputs(network)), before)
    assert relative(added[1], added[0]) < {"int8": 0.03, "nf4": 0.3}[kind]


def test_wrong_weights_are_refused_as_ever(checkpoint_copy, kind):
    (checkpoint_copy / "text_encoder_3" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="are missing"):
        load_component(checkpoint_copy, "text_encoder_3", quantization=kind)
    config = checkpoint_copy / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 3', '"num_layers": 4'))
    with pytest.raises(CheckpointError, match="not those that its config asks for"):
        load_transformer(checkpoint_copy, quantization=kind)


@pytest.mark.parametrize("name", ["transformer", "text_encoder_3"])
def test_what_can_not_be_quantised_here(checkpoint, monkeypatch, name):
    with pytest.raises(CheckpointError, match="known are 'int8', 'nf4'"):
        load_component(checkpoint, name, quantization="int3")
    monkeypatch.setattr(quantization, "find_spec", lambda library: None)
    for kind, library in LIBRARIES.items():
        with pytest.raises(CheckpointError, match=rf"{kind} need {library}, which the extra `quantized` brings"):
            load_component(checkpoint, name, quantization=kind)
    monkeypatch.setattr(quantization, "find_spec", lambda library: library)
    with pytest.raises(CheckpointError, match="on a CPU or a CUDA GPU, not on mps"):
        load_component(checkpoint, name, quantization="int8", device="mps")
