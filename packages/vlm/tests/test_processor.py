import json

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2Tokenizer, Qwen2VLImageProcessorPil

from unipic2_vlm.checkpoint import CheckpointError
from unipic2_vlm.processor import QwenVLProcessor

SYSTEM_CLAUSE = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
)


@pytest.fixture(scope="module")
def processor(small_folder):
    return QwenVLProcessor.from_pretrained(small_folder)


@pytest.fixture(scope="module")
def released():
    """A processor with the released VLM's patches and limits."""
    vocabulary = {"<|vision_start|>": 0, "<|image_pad|>": 1, "<|vision_end|>": 2}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], chat_template="x")
    size = {"shortest_edge": 3136, "longest_edge": 12845056}
    return QwenVLProcessor(tokenizer, Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, size=size))


def texts(processor, inputs):
    return [processor.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(*inputs[:2], strict=True)]


def stock_prompt(processor, content):
    """The template of the folder without its default system turn, as the released scripts have it."""
    template = processor.tokenizer.chat_template
    assert SYSTEM_CLAUSE in template
    return processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=False,
        add_generation_prompt=True,
        chat_template=template.replace(SYSTEM_CLAUSE, ""),
    )


def test_text_to_image_prompts_are_the_template_without_system_turn(processor):
    prompts = ["a red circle", ""]
    inputs = processor.generation(prompts)
    content = [[{"type": "text", "text": f"Generate an image: {prompt}"}] for prompt in prompts]
    assert texts(processor, inputs) == [stock_prompt(processor, each) for each in content]
    assert inputs.pixel_values is None
    assert inputs.attention_mask[1].tolist() == sorted(inputs.attention_mask[1].tolist(), reverse=True)
    assert inputs.attention_mask[1].min() == 0


def test_edit_prompts_hold_the_picture_and_then_the_instruction(processor, picture):
    inputs = processor.edit(["make it red", ""], [picture(1), picture(2)], 8)
    assert inputs.image_grid_thw.tolist() == [[1, 8, 8]] * 2
    assert (inputs.input_ids == processor.image_token_id).sum(dim=1).tolist() == [16, 16]
    content = [[{"type": "image"}, {"type": "text", "text": text}] for text in ("make it red", "")]
    expected = [stock_prompt(processor, each).replace("<|image_pad|>", "<|image_pad|>" * 16) for each in content]
    assert texts(processor, inputs) == expected


def test_an_edit_without_its_picture_is_the_instruction_alone(processor):
    inputs = processor.edit(["make it red"], None, 8)
    assert texts(processor, inputs) == [stock_prompt(processor, [{"type": "text", "text": "make it red"}])]


def test_questions_have_the_stock_template_and_pixels(processor, small_folder, picture):
    shown = [[picture(1), picture(2, width=40, height=21)], []]
    inputs = processor.question(shown, ["what is left", "what"])
    tokenizer = AutoTokenizer.from_pretrained(small_folder)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what is left"}]
    first = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    head, middle, tail = first.split("<|image_pad|>")
    assert "<|im_start|>system" in head
    assert texts(processor, inputs)[0] == head + "<|image_pad|>" * 16 + middle + "<|image_pad|>" * 15 + tail
    assert inputs.attention_mask[1, 0] == 0
    assert inputs.attention_mask[:, -1].tolist() == [1, 1]
    stock = Qwen2VLImageProcessorPil.from_pretrained(small_folder)(images=shown[0], return_tensors="pt")
    assert torch.equal(inputs.pixel_values, stock["pixel_values"])
    assert inputs.image_grid_thw.tolist() == stock["image_grid_thw"].tolist() == [[1, 8, 8], [1, 6, 10]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (448, 448)), ((384, 512), (336, 448)), ((1024, 768), (896, 672)), ((16, 512), (28, 448))],
)
def test_the_released_vlm_sees_28_px_for_32(released, size, expected):
    assert released.picture_size(*size, multiple=16) == expected


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        ((32, 32), 8, (32, 32)),  # tiny preset: 16 tokens
        ((128, 128), 16, (64, 64)),  # small preset
        ((32, 32), 4, (32, 32)),
        ((24, 40), 8, (24, 40)),
        ((40, 40), 16, (24, 24)),  # 2.5 tokens are 3
    ],
)
def test_a_token_covers_whole_patches_of_the_dit(processor, size, multiple, expected):
    assert processor.picture_size(*size, multiple=multiple) == expected


def test_pictures_for_edits_are_resized_once_and_by_pil(processor, picture):
    large = picture(3, width=128, height=64)
    resized = large.resize((64, 32), Image.Resampling.BICUBIC)
    expected = processor.image_processor(images=[resized], do_resize=False, return_tensors="pt")
    inputs = processor.edit(["x"], [large.convert("RGBA")], 16)
    assert inputs.image_grid_thw.tolist() == [[1, 8, 16]]
    assert torch.equal(inputs.pixel_values, expected["pixel_values"])


def test_pixels_in_tensors_are_pictures(processor, picture):
    pictures = [picture(1), picture(2)]
    pixels = torch.stack(
        [torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8).view(32, 32, 3) for each in pictures]
    )
    from_tensor = processor.edit(["x", "y"], pixels.permute(0, 3, 1, 2) / 127.5 - 1, 8)
    assert torch.equal(from_tensor.pixel_values, processor.edit(["x", "y"], pictures, 8).pixel_values)
    with pytest.raises(ValueError, match=r"shape \(B, 3, H, W\)"):
        processor.edit(["x"], torch.zeros(1, 1, 32, 32), 8)


def test_too_many_pixels_are_refused(processor, picture):
    with pytest.raises(ValueError, match=r"1024x512 px for the VLM, too many: .* allows 262144"):
        processor.edit(["x"], [picture(width=1024, height=512)], 8)


def test_pictures_that_do_not_fit_the_prompts_are_refused(processor, picture):
    with pytest.raises(ValueError, match="2 pictures for 1 instructions"):
        processor.edit(["x"], [picture(), picture()], 8)
    with pytest.raises(ValueError, match="1 rows for 2 questions"):
        processor.question([[picture()]], ["x", "y"])
    with pytest.raises(ValueError, match="places for 2 pictures, but there are 1"):
        processor.edit(["what is <|image_pad|>"], [picture()], 8)


def test_a_tokenizer_of_another_model_is_refused(processor, small_copy):
    with pytest.raises(CheckpointError, match=r"has no <\|vision_start\|>, <\|image_pad\|>, <\|vision_end\|>"):
        QwenVLProcessor(Qwen2Tokenizer(vocab={"a": 0}, merges=[]), processor.image_processor)
    (small_copy / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template"):
        QwenVLProcessor.from_pretrained(small_copy)


def test_missing_and_damaged_files_are_named(small_copy):
    (small_copy / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="can't be loaded"):
        QwenVLProcessor.from_pretrained(small_copy)
    (small_copy / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
        QwenVLProcessor.from_pretrained(small_copy)
    (small_copy / "preprocessor_config.json").write_text(json.dumps({}))
    (small_copy / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json or vocab\.json"):
        QwenVLProcessor.from_pretrained(small_copy)
