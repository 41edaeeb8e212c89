import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipic2_vlm import checkpoint
from unipic2_vlm.checkpoint import CheckpointError

WEIGHTS = "model.safetensors"


def change_weights(file, change):
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_loads_frozen_dtypes_and_without_training(parity_folder):
    model = checkpoint.load_model(parity_folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert {parameter.dtype for parameter in checkpoint.load_model(parity_folder).parameters()} == {torch.float32}


def test_missing_unexpected_and_wrongly_shaped_weights_are_listed(small_copy):
    def change(weights):
        del weights["model.norm.weight"]  # the layout of files, which is older than the model's own names
        weights["extra.weight"] = torch.zeros(1)
        weights["visual.merger.ln_q.weight"] = torch.zeros(3)

    change_weights(small_copy / WEIGHTS, change)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_model(small_copy)
    message = str(caught.value)
    assert "missing (1): model.language_model.norm.weight" in message
    assert "unexpected (1): extra.weight" in message
    assert "wrongly shaped (1): model.visual.merger.ln_q.weight" in message


def test_long_lists_are_cut(small_copy):
    change_weights(small_copy / WEIGHTS, lambda weights: [weights.pop(key) for key in [*weights][-30:]])
    with pytest.raises(CheckpointError, match=r"missing \(30\).*and 10 more"):
        checkpoint.load_model(small_copy)


def test_absent_and_damaged_weights_are_named(small_copy):
    weights = small_copy / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="missing, damaged or cut short"):
        checkpoint.load_model(small_copy)
    weights.unlink()
    with pytest.raises(CheckpointError, match="missing, damaged or cut short"):
        checkpoint.load_model(small_copy)


def test_a_wrong_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="so it is no folder of Qwen2"):
        checkpoint.resolve_folder(tmp_path)
    (tmp_path / "transformer").mkdir()
    with pytest.raises(CheckpointError, match="This is a UniPic 2 checkpoint; its VLM has a folder of its own"):
        checkpoint.resolve_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(CheckpointError, match="of type 'qwen2', expected 'qwen2_5_vl'"):
        checkpoint.resolve_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        checkpoint.resolve_folder(tmp_path)
    for missing in (tmp_path / "nowhere" / "at" / "all", tmp_path / "config.json"):
        with pytest.raises(CheckpointError, match="There is no folder"):
            checkpoint.resolve_folder(missing)


def test_hub_id_offline_says_what_to_download(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"hf download Qwen/Nothing --revision v1 --local-dir DIR"):
        checkpoint.resolve_folder("Qwen/Nothing", revision="v1")


@pytest.mark.parametrize(("quantization", "library"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_quantised_weights_need_a_library(parity_folder, monkeypatch, quantization, library):
    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None)
    message = f"in {quantization} needs {library} and accelerate, which the extra `quantized` brings: run `pip install"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(parity_folder, quantization=quantization)


def test_unknown_quantization_is_refused(parity_folder):
    with pytest.raises(CheckpointError, match="known are 'int8', 'nf4'"):
        checkpoint.load_model(parity_folder, quantization="2bit")


@pytest.mark.parametrize(("quantization", "share"), [("int8", 4), ("nf4", 8)])
def test_quantised_weights_take_less_room_and_give_nearly_the_same(small_folder, quantization, share):
    pytest.importorskip({"int8": "torchao", "nf4": "bitsandbytes"}[quantization])
    from unipic2_vlm.queries import QueryEncoder

    queries = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 0.2
    exact = QueryEncoder.from_pretrained(small_folder, 8)
    quantised = QueryEncoder.from_pretrained(small_folder, 8, quantization=quantization, dtype=torch.float32)
    small, large = (
        each.backbone.model.model.language_model.layers[0].mlp.up_proj.weight for each in (quantised, exact)
    )
    assert getattr(small, "qdata", small).nbytes * share == large.nbytes
    expected, states = (each(["a red circle", "a blue square"], queries) for each in (exact, quantised))
    assert torch.nn.functional.cosine_similarity(states, expected, dim=-1).mean() > 0.85
    torch.testing.assert_close(quantised(["a red circle"], queries), states[:1], rtol=1e-4, atol=1e-4)
