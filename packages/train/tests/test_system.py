"""The frozen parts and the transformer that a run starts from."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from unipic2_dit.checkpoint import CheckpointError
from unipic2_train.encoding import weights_hash
from unipic2_train.system import AdapterConfig, FrozenParts, build_transformer, initial_value


def test_a_shift_that_depends_on_the_size_is_refused(foundation, tmp_path):
    folder = shutil.copytree(foundation, tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dynamic_shifting": True}))
    with pytest.raises(ValueError, match="training draws noise levels by one shift"):
        FrozenParts(folder)


def test_an_embedding_does_not_depend_on_what_was_embedded_before(foundation, batch):
    """Bit for bit: a resumed run starts with nothing embedded."""
    prompts = list(dict.fromkeys([*batch("t2i", 24).prompts, *batch("edit", 24).prompts]))
    whole = FrozenParts(foundation).embed(prompts)
    for size in (1, 2, 3, 5, 8, 13):
        parts = FrozenParts(foundation)
        for start in range(0, len(prompts), size):
            parts.embed(prompts[start : start + size])
        again = parts.embed(prompts)
        assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True)), size


def test_embedded_prompts_are_those_of_the_conditioner(frozen):
    prompts = ["a red circle", "", "a red circle", "a blue square"]
    for one, other in zip(frozen.embed(prompts), frozen.text(prompts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_encoded_latents_decode_to_the_size_they_came_from(frozen, batch):
    edits = batch("edit", 3)
    encoded = frozen.encode(edits)
    assert encoded.latents.shape == encoded.references.shape == (3, 4, 8, 8)
    assert not torch.equal(encoded.latents, encoded.references)
    pictures = frozen.decode(encoded.latents)
    assert pictures.shape == (3, 32, 32, 3)
    assert pictures.dtype == torch.uint8


def test_a_fingerprint_sees_every_weight(foundation):
    one, two = FrozenParts(foundation), FrozenParts(foundation)
    assert one.fingerprint() == two.fingerprint()
    with torch.no_grad():
        next(two.text.text_encoder_3.parameters()).view(-1)[0] += 1e-3
    assert one.fingerprint() != two.fingerprint()


def test_a_hash_does_not_depend_on_the_memory_format():
    """The small autoencoders have 1x1 convolutions, and are kept in channels_last."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4, 8, 1)
    before = weights_hash(convolution)
    assert weights_hash(convolution.to(memory_format=torch.channels_last)) == before


def test_scratch_depends_on_the_seed_alone(foundation):
    torch.manual_seed(1)
    one = build_transformer(foundation, "scratch", seed=3)
    torch.manual_seed(2)
    two, other = build_transformer(foundation, "scratch", seed=3), build_transformer(foundation, "scratch", seed=4)
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(one.pos_embed.proj.weight, other.pos_embed.proj.weight)
    assert not any(parameter.isnan().any() for parameter in one.parameters())


def test_a_new_model_predicts_nothing(foundation, frozen, batch):
    """The output projection starts at zero, as in DiT."""
    encoded = frozen.encode(batch("edit", 2))
    out = build_transformer(foundation, "scratch")(
        hidden_states=encoded.latents,
        ref_hidden_states=encoded.references,
        encoder_hidden_states=encoded.conditioning.prompt_embeds,
        pooled_projections=encoded.conditioning.pooled_projections,
        timestep=torch.tensor([500.0, 500.0]),
        return_dict=False,
    )[0]
    assert not out.any()


@pytest.fixture
def checkpoint(foundation, transformer, tmp_path):
    folder = shutil.copytree(foundation, tmp_path / "checkpoint")
    transformer.save_pretrained(folder / "transformer")
    return folder


def test_a_checkpoint_comes_back_exactly(checkpoint, transformer):
    loaded = build_transformer(checkpoint, "checkpoint")
    for name, value in transformer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_an_adapter_trains_itself_alone_and_starts_without_effect(checkpoint, transformer, frozen, batch):
    adapted = build_transformer(checkpoint, "checkpoint", adapter=AdapterConfig(rank=2, alpha=4))
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    encoded = frozen.encode(batch("edit", 2))
    outs = [
        model(
            hidden_states=encoded.latents,
            ref_hidden_states=encoded.references,
            encoder_hidden_states=encoded.conditioning.prompt_embeds,
            pooled_projections=encoded.conditioning.pooled_projections,
            timestep=torch.tensor([100.0, 900.0]),
            return_dict=False,
        )[0]
        for model in (adapted, transformer)
    ]
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)


def test_missing_weights_are_listed(checkpoint, transformer):
    weights = {name: value.contiguous() for name, value in transformer.state_dict().items()}
    del weights["proj_out.weight"]
    save_file(weights, checkpoint / "transformer" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing .*proj_out\.weight"):
        build_transformer(checkpoint, "checkpoint")


def test_a_foundation_has_no_weights_to_load(foundation):
    with pytest.raises(CheckpointError, match="missing"):
        build_transformer(foundation, "checkpoint")


def test_loaded_weights_come_with_their_architecture(checkpoint):
    with pytest.raises(ValueError, match="init: scratch"):
        build_transformer(checkpoint, "checkpoint", architecture={"num_layers": 1})
    assert len(build_transformer(checkpoint, "scratch", architecture={"num_layers": 1}).transformer_blocks) == 1


def test_another_preset_is_refused(checkpoint):
    config = checkpoint / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_layers": 3}))
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.2\."):
        build_transformer(checkpoint, "checkpoint")


@pytest.mark.parametrize(
    ("name", "shape", "low", "high"),
    [
        ("a.weight", (64, 32), 0.2, 0.25),  # Xavier: (6 / 96) ** 0.5 = 0.25
        ("a.lora_A.default.weight", (8, 64), 0.11, 0.125),  # Kaiming: 64 ** -0.5
        ("a.lora_B.default.weight", (64, 8), 0.0, 0.0),
        ("proj_out.weight", (4, 4), 0.0, 0.0),
        ("norm1.linear.weight", (4, 4), 0.0, 0.0),
        ("a.bias", (4,), 0.0, 0.0),
        ("norm_q.weight", (4,), 1.0, 1.0),
    ],
)
def test_initial_values(name, shape, low, high):
    value = initial_value(name, shape, seed=0)
    assert value.shape == shape
    assert low <= value.abs().max() <= high
    assert torch.equal(value, initial_value(name, shape, seed=0))


def test_attention_starts_by_passing_on_what_is_alike():
    values = {
        name: initial_value(f"blocks.0.attn.{name}.weight", (16, 16), seed=3) for name in ("to_q", "to_k", "to_v")
    }
    out = initial_value("blocks.0.attn.to_out.0.weight", (16, 16), seed=3)
    assert torch.equal(values["to_k"], values["to_q"])
    assert torch.allclose(out @ values["to_v"], torch.eye(16), atol=1e-6)
    text = [initial_value(f"blocks.0.attn.{name}.weight", (16, 16), seed=3) for name in ("add_q_proj", "add_k_proj")]
    assert not torch.equal(*text)
    assert torch.equal(initial_value("blocks.0.attn.to_v.base_layer.weight", (16, 16), seed=3), values["to_v"])
