import json
import shutil

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file
from torch import nn

from unipic2_connector.checkpoint import CheckpointError, load_conditioner

WEIGHTS = "diffusion_pytorch_model.safetensors"


def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_an_exported_folder_is_the_released_one(conditioner, released_folder, tmp_path):
    """Same config, same keys, same values: what loads the one loads the other."""
    conditioner.save_pretrained(tmp_path / "conditioner")
    exported, released = config(tmp_path / "conditioner"), config(released_folder / "conditioner")
    assert {**exported, "_diffusers_version": ""} == {**released, "_diffusers_version": ""}
    ours, theirs = (load_file(base / "conditioner" / WEIGHTS) for base in (tmp_path, released_folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


class StableDiffusion3Conditioner(ModelMixin, ConfigMixin):
    """A class with the released one's name, arguments and parameters, by other modules than ours."""

    @register_to_config
    def __init__(
        self,
        connector_config,
        num_queries=256,
        llm_hidden_size=3584,
        pooled_projection_dim=2048,
        joint_attention_dim=4096,
    ):
        super().__init__()
        width, inner = connector_config["hidden_size"], connector_config["intermediate_size"]
        self.connector = nn.Module()
        self.connector.layers = nn.ModuleList(nn.Module() for _ in range(connector_config["num_hidden_layers"]))
        for layer in self.connector.layers:
            names = ("q_proj", "k_proj", "v_proj", "out_proj")
            layer.self_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
            layer.layer_norm1, layer.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            layer.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self.projector_1 = nn.Linear(llm_hidden_size, width)
        self.projector_2 = nn.Linear(width, pooled_projection_dim)
        self.projector_3 = nn.Linear(width, joint_attention_dim)
        self.meta_queries = nn.Parameter(torch.zeros(num_queries, llm_hidden_size))


def test_folders_load_both_ways(build, tmp_path):
    ours = build()
    ours.save_pretrained(tmp_path / "ours" / "conditioner")
    released, info = StableDiffusion3Conditioner.from_pretrained(
        tmp_path / "ours", subfolder="conditioner", output_loading_info=True
    )
    assert not any(info.values())
    with torch.no_grad():
        for parameter in released.parameters():
            parameter.add_(1)
    released.save_pretrained(tmp_path / "theirs" / "conditioner")
    back = load_conditioner(tmp_path / "theirs")
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], value + 1)


def test_dtype_device_and_mode(released_folder):
    loaded = load_conditioner(released_folder, dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert not loaded.training
    assert load_conditioner(released_folder).dtype == torch.float32


def test_options_survive(build, tmp_path):
    build(vlm_positions="mrope", vlm_layers=(1, -1)).save_pretrained(tmp_path / "conditioner")
    back = load_conditioner(tmp_path)
    assert (back.config.vlm_positions, list(back.config.vlm_layers)) == ("mrope", [1, -1])
    assert back.projector_1.in_features == 32


def test_sharded_weights_load(conditioner, tmp_path):
    conditioner.save_pretrained(tmp_path / "conditioner", max_shard_size="40KB")
    assert not (tmp_path / "conditioner" / WEIGHTS).exists()
    back = load_conditioner(tmp_path)
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in conditioner.state_dict().items())
    next((tmp_path / "conditioner").glob("*00001-of*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="are missing"):
        load_conditioner(tmp_path)


def test_missing_unexpected_and_wrongly_shaped_weights_are_listed(folder):
    file = folder / "conditioner" / WEIGHTS
    weights = load_file(file)
    del weights["projector_3.bias"]
    weights |= {"extra.weight": torch.zeros(1), "projector_3.weight": torch.zeros(3, 2)}
    save_file(weights, file)
    with pytest.raises(CheckpointError) as caught:
        load_conditioner(folder)
    message = str(caught.value)
    assert "missing (1): projector_3.bias" in message
    assert "unexpected (1): extra.weight" in message
    assert "wrongly shaped (1): projector_3.weight (found [3, 2], expected [40, 32])" in message


def test_long_lists_are_cut(folder):
    file = folder / "conditioner" / WEIGHTS
    save_file(dict([*load_file(file).items()][:5]), file)
    with pytest.raises(CheckpointError, match=r"missing \(34\).*and 14 more"):
        load_conditioner(folder)


def test_damaged_files_are_named(folder):
    weights = folder / "conditioner" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_conditioner(folder)
    (folder / "conditioner" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_conditioner(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "Other"}, "holds a Other, expected StableDiffusion3Conditioner"),
        ({"connector_config": {"hidden_size": 32}}, "is no config of a .*missing: intermediate_size"),
        ({"num_queries": 9}, r"meta_queries \(found \[8, 48\], expected \[9, 48\]\)"),
    ],
)
def test_a_wrong_config_is_refused(folder, change, message):
    path = folder / "conditioner" / "config.json"
    path.write_text(json.dumps({**config(folder / "conditioner"), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_conditioner(folder)


def test_missing_folders_and_parts_are_named(folder, tmp_path, monkeypatch):
    shutil.rmtree(folder / "conditioner")
    with pytest.raises(CheckpointError, match="Only MetaQuery checkpoints have a conditioner"):
        load_conditioner(folder)
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "nowhere" / "at" / "all", tmp_path / "file"):
        with pytest.raises(CheckpointError, match="There is no checkpoint folder"):
            load_conditioner(wrong)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="hf download Skywork/Nothing --revision v1 --local-dir DIR"):
        load_conditioner("Skywork/Nothing", revision="v1")
