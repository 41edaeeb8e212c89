import shutil

import torch

from unipic2_train.export import save_vlm
from unipic2_vlm import QwenVLBackbone

INDEX = "model.safetensors.index.json"


def test_a_vlm_in_shards_is_exported_without_their_index(small_vlm, tmp_path):
    start = shutil.copytree(small_vlm.start, tmp_path / "start")
    for file in start.glob("*.safetensors"):
        file.unlink()
    small_vlm.model.save_pretrained(start, max_shard_size="20KB")
    assert (start / INDEX).is_file()
    save_vlm(tmp_path / "export", small_vlm.model, start, {})
    assert {file.name for file in (tmp_path / "export").glob("*safetensors*")} == {"model.safetensors"}
    assert (tmp_path / "export" / "tokenizer_config.json").is_file()
    stored = QwenVLBackbone.from_pretrained(tmp_path / "export").model.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in small_vlm.model.state_dict().items())
