import json
import shutil

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from unipic2_dit import checkpoint as ckpt
from unipic2_dit.transformer import SD3Transformer2DKontextModel

WEIGHTS = "diffusion_pytorch_model.safetensors"


def change_weights(file, change):
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def change_config(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_every_part_loads(checkpoint):
    for name in ("transformer", "vae", "text_encoder", "text_encoder_3"):
        part = ckpt.load_component(checkpoint, name, dtype=torch.bfloat16)
        assert not part.training
        assert {parameter.dtype for parameter in part.parameters()} == {torch.bfloat16}
    assert ckpt.load_component(checkpoint, "tokenizer_3").model_max_length == 24


def test_dtype_is_float32_unless_asked_for_otherwise(checkpoint_copy):
    for name in ("transformer", "text_encoder"):
        folder = checkpoint_copy / name
        ckpt.load_component(checkpoint_copy, name, dtype=torch.bfloat16).save_pretrained(folder)
        assert {parameter.dtype for parameter in ckpt.load_component(checkpoint_copy, name).parameters()} == {
            torch.float32
        }


def test_the_scheduler_loads_with_its_shift(checkpoint):
    assert ckpt.load_component(checkpoint, "scheduler").config.shift == 3.0


def test_a_stock_text_to_image_checkpoint_loads(checkpoint_copy):
    """Pre-training starts from SD3.5-Medium, whose transformer is diffusers' own class."""
    folder = checkpoint_copy / "transformer"
    config = {k: v for k, v in ckpt.read_config(checkpoint_copy, "transformer").items() if not k.startswith("_")}
    stock = SD3Transformer2DModel(**config)
    stock.save_pretrained(folder)
    assert ckpt.read_config(checkpoint_copy, "transformer")["_class_name"] == "SD3Transformer2DModel"
    ours = ckpt.load_transformer(checkpoint_copy)
    assert isinstance(ours, SD3Transformer2DKontextModel)
    for key, value in stock.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


def test_sharded_weights_load(checkpoint_copy):
    whole = ckpt.load_transformer(checkpoint_copy)
    shutil.rmtree(checkpoint_copy / "transformer")
    whole.save_pretrained(checkpoint_copy / "transformer", max_shard_size="200KB")
    assert not (checkpoint_copy / "transformer" / WEIGHTS).exists()
    again = ckpt.load_transformer(checkpoint_copy)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in whole.state_dict().items())
    next((checkpoint_copy / "transformer").glob("*00001-of*.safetensors")).unlink()
    with pytest.raises(ckpt.CheckpointError, match="are missing"):
        ckpt.load_transformer(checkpoint_copy)


def test_missing_unexpected_and_wrongly_shaped_weights_are_listed(checkpoint_copy):
    def change(weights):
        del weights["proj_out.bias"]
        weights["extra.weight"] = torch.zeros(1)
        weights["proj_out.weight"] = torch.zeros(3, 2)

    change_weights(checkpoint_copy / "transformer" / WEIGHTS, change)
    with pytest.raises(ckpt.CheckpointError) as caught:
        ckpt.load_transformer(checkpoint_copy)
    message = str(caught.value)
    assert "missing (1): proj_out.bias" in message
    assert "unexpected (1): extra.weight" in message
    assert "wrongly shaped (1): proj_out.weight (found [3, 2], expected [16, 32])" in message


def test_long_lists_are_cut(checkpoint_copy):
    change_weights(
        checkpoint_copy / "transformer" / WEIGHTS, lambda weights: [weights.pop(key) for key in [*weights][:40]]
    )
    with pytest.raises(ckpt.CheckpointError, match=r"missing \(40\).*and 20 more"):
        ckpt.load_transformer(checkpoint_copy)


def test_a_text_encoder_with_missing_weights_is_refused(checkpoint_copy):
    change_weights(checkpoint_copy / "text_encoder" / "model.safetensors", lambda weights: weights.popitem())
    with pytest.raises(ckpt.CheckpointError, match=r"text_encoder.*\n  missing \(1\)"):
        ckpt.load_component(checkpoint_copy, "text_encoder")


def test_a_wrong_preset_is_refused(checkpoint_copy):
    change_config(checkpoint_copy / "transformer" / "config.json", num_layers=4)
    with pytest.raises(ckpt.CheckpointError, match=r"missing .*transformer_blocks\.3"):
        ckpt.load_transformer(checkpoint_copy)


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler"])
def test_wrong_class_is_refused(checkpoint_copy, part):
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    change_config(checkpoint_copy / part / file, _class_name="FluxTransformer2DModel")
    with pytest.raises(ckpt.CheckpointError, match="holds a FluxTransformer2DModel, expected"):
        ckpt.load_component(checkpoint_copy, part)


def test_wrong_text_encoder_class_is_refused(checkpoint_copy):
    change_config(checkpoint_copy / "text_encoder" / "config.json", architectures=["BertModel"])
    with pytest.raises(ckpt.CheckpointError, match="holds a BertModel, expected CLIPTextModelWithProjection"):
        ckpt.load_component(checkpoint_copy, "text_encoder")


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler", "text_encoder", "tokenizer"])
def test_a_missing_part_is_named(checkpoint_copy, part):
    shutil.rmtree(checkpoint_copy / part)
    with pytest.raises(ckpt.CheckpointError, match=f"has no {part}/"):
        ckpt.load_pipeline(checkpoint_copy)


def test_damaged_files_are_named(checkpoint_copy):
    weights = checkpoint_copy / "vae" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ckpt.CheckpointError, match="damaged or cut short"):
        ckpt.load_component(checkpoint_copy, "vae")
    (checkpoint_copy / "transformer" / "config.json").write_text("{")
    with pytest.raises(ckpt.CheckpointError, match="not valid JSON"):
        ckpt.load_transformer(checkpoint_copy)


def test_missing_folder_and_file_instead_of_folder(tmp_path):
    with pytest.raises(ckpt.CheckpointError, match="no checkpoint folder"):
        ckpt.resolve_folder(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ckpt.CheckpointError, match="is a file"):
        ckpt.resolve_folder(tmp_path / "model.safetensors")


def test_hub_id_offline_says_what_to_download(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    command = r"hf download Skywork/UniPic2-Nothing --revision v1 --local-dir DIR"
    with pytest.raises(ckpt.CheckpointError, match=command):
        ckpt.resolve_folder("Skywork/UniPic2-Nothing", revision="v1")


def test_t5_is_optional(checkpoint_copy):
    shutil.rmtree(checkpoint_copy / "text_encoder_3")
    assert ckpt.load_pipeline(checkpoint_copy).text_encoder_3 is None


def test_lora_that_does_not_fit_is_refused(pipeline, tmp_path):
    with pytest.raises(ckpt.CheckpointError, match="There is no LoRA file"):
        ckpt.load_lora(pipeline, tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"something.else": torch.zeros(2, 2)}, file)
    with pytest.raises(ckpt.CheckpointError, match="can't be loaded as a LoRA"):
        ckpt.load_lora(pipeline, file)
    prefix = "transformer.transformer_blocks.0.attn.to_q"
    save_file({f"{prefix}.lora_A.weight": torch.zeros(2, 99), f"{prefix}.lora_B.weight": torch.zeros(99, 2)}, file)
    with pytest.raises(ckpt.CheckpointError, match="can't be loaded as a LoRA"):
        ckpt.load_lora(pipeline, file)
