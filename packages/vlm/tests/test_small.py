from dataclasses import replace

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from unipic2_vlm.frozen import tensor_hashes
from unipic2_vlm.small import SPECIAL_TOKENS, SmallVlmConfig, write_small_vlm

TINY = SmallVlmConfig(width=16, num_layers=1, num_heads=2, vision_width=16, vision_layers=1, vision_heads=2)


def test_stock_classes_load_it(small_folder):
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(small_folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(small_folder)
    assert len(tokenizer) == model.config.text_config.vocab_size
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == model.config.image_token_id
    assert AutoImageProcessor.from_pretrained(small_folder, backend="pil").patch_size == 4


def test_each_word_is_one_token_and_nothing_is_unknown(small_folder):
    tokenizer = AutoTokenizer.from_pretrained(small_folder)
    assert len(tokenizer.tokenize("red circle left of the blue square")) == 7
    text = "Generate an image: r\u00e9d zebra 42!\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert all(len(tokenizer(token).input_ids) == 1 for token in SPECIAL_TOKENS)


def test_it_sees_16_tokens_of_a_32_px_picture(small, picture):
    inputs = small.processor.edit(["x"], [picture()], small.multiple)
    assert int((inputs.input_ids == small.backbone.image_token_id).sum()) == 16


def test_weights_depend_on_the_seed_alone(tmp_path):
    hashes = []
    state = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_small_vlm(tmp_path / name, ["red"], replace(TINY, seed=seed))
        hashes.append(tensor_hashes(Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / name)))
        torch.rand(3)
    torch.set_rng_state(state)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("wrong", [{"width": 20}, {"num_heads": 1}, {"vision_width": 12}])
def test_impossible_sizes_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="has to be a multiple"):
        write_small_vlm(tmp_path, ["red"], replace(TINY, **wrong))
