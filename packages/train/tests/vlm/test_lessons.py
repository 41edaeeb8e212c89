from collections import Counter
from itertools import islice

import pytest
import torch
from PIL import Image

from unipic2_data.shapes.scene import Scene
from unipic2_train.objectives.answers import answer_loss, right_answers
from unipic2_train.vlm.data import LessonData, LessonLoader, LessonShares
from unipic2_train.vlm.lessons import draw_lesson, question_lesson, words
from unipic2_train.vlm.tokens import IGNORED, lesson_inputs, patches, segments
from unipic2_vlm import Understanding
from unipic2_vlm.backbone import QwenVLBackbone
from unipic2_vlm.understanding import Decoding

SHARES = vars(LessonShares())


class FakeTrainer:
    world_size, global_rank, accumulate_grad_batches, global_step = 1, 0, 1, 0


@pytest.fixture
def data():
    made = LessonData(global_batch=8)
    made.trainer = FakeTrainer()
    return made


def test_a_lesson_depends_on_its_number_alone():
    lessons = [draw_lesson("train", 0, index, SHARES, 3) for index in range(60)]
    assert lessons == [draw_lesson("train", 0, index, SHARES, 3) for index in range(60)]
    assert lessons[0] != draw_lesson("train", 1, 0, SHARES, 3)
    kinds = Counter(lesson.kind for lesson in lessons)
    assert all(abs(count / 60 - SHARES[kind]) < 0.05 for kind, count in kinds.items())
    talks = [[said for said, _ in lesson.turns] for lesson in lessons if lesson.kind == "talk"]
    assert {len(said) for said in talks} == {1, 3}
    assert all(said.index("Describe the picture.") == len(said) - 1 for said in talks), "no answer to copy from"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_scenes_are_those_of_the_split(split):
    lessons = [draw_lesson(split, 0, index, SHARES, 1) for index in range(30)]
    scenes = [lesson.scene for lesson in lessons if lesson.scene is not None]
    scenes += [question_lesson(split, 0, index)[0] for index in range(12)]
    assert {scene.split for scene in scenes} == {split}
    assert all(isinstance(scene, Scene) for scene in scenes)


def test_every_word_is_one_token(small_vlm):
    tokenizer = small_vlm.processor.tokenizer
    assert all(len(tokenizer(" " + word)["input_ids"]) == 1 for word in words())
    said = [text for index in range(40) for turn in draw_lesson("train", 0, index, SHARES, 3).turns for text in turn]
    unknown = {text for text in said if len(tokenizer(text)["input_ids"]) > 2 * len(text.split()) + 12}
    assert unknown == set()


def test_patches_are_the_processors():
    from transformers import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 4096})
    pictures = torch.randint(256, (3, 32, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = processor(images=[Image.fromarray(each.numpy()) for each in pictures], return_tensors="pt")
    values, grid = patches(pictures, processor)
    torch.testing.assert_close(values, expected["pixel_values"], rtol=1e-5, atol=1e-5)
    assert torch.equal(grid, expected["image_grid_thw"])


def test_a_lesson_has_the_tokens_that_asking_has(small_vlm):
    picture = torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8)
    rows = [segments(small_vlm.processor, "talk", [("What color is the circle?", "red")], 16)]
    inputs = lesson_inputs(small_vlm.processor, rows, picture)
    asked = small_vlm.processor.question([[Image.fromarray(picture[0].numpy())]], ["What color is the circle?"])
    answer = inputs.labels[0] != IGNORED
    assert torch.equal(inputs.input_ids[0, ~answer], asked.input_ids[0])
    assert small_vlm.processor.tokenizer.decode(inputs.input_ids[0, answer]) == "red<|im_end|>"
    torch.testing.assert_close(inputs.pixel_values, asked.pixel_values, rtol=1e-5, atol=1e-5)


def test_edits_and_readings_have_the_prompts_that_queries_follow(small_vlm):
    picture = torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8)
    (edit, _), _ = segments(small_vlm.processor, "edit", [("make it red", "red circle")], 16)
    expected = small_vlm.processor.edit(["make it red"], [Image.fromarray(picture[0].numpy())], 8)
    assert small_vlm.processor.tokenizer(edit)["input_ids"] == expected.input_ids[0].tolist()


def test_only_answers_are_learnt(small_vlm, data):
    batch = data.batch("train", range(6))
    inputs = small_vlm._lessons(batch)
    loss = answer_loss(small_vlm.model, inputs, batch.weight)
    assert loss.per_row.shape == (6,)
    torch.testing.assert_close(loss.loss, loss.per_row.mean())
    inputs.labels[2] = IGNORED
    assert answer_loss(small_vlm.model, inputs, batch.weight).per_row[2] == 0
    weight = batch.weight.clone()
    weight[1:] = 0
    torch.testing.assert_close(answer_loss(small_vlm.model, inputs, weight).loss, loss.per_row[0] / 6)


def test_right_is_what_greedy_decoding_says(small_vlm):
    """One forward pass against token after token, of the answer that the model gives and of another one."""
    pictures = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    asker = Understanding(QwenVLBackbone(small_vlm.model), small_vlm.processor)
    images = [[Image.fromarray(picture.numpy())] for picture in pictures]
    questions = ["What color is the circle?", "How many objects are there?"]
    inputs = asker.processor.question(images, questions)
    with torch.no_grad():
        tokens = asker._generate(inputs, Decoding(max_new_tokens=3))[:, inputs.input_ids.shape[1] :]
    small_vlm.model.requires_grad_(True)
    rows = [segments(small_vlm.processor, "talk", [(text, "red blue")], 16) for text in questions]
    given = lesson_inputs(small_vlm.processor, rows, pictures)
    answer = given.labels != IGNORED
    assert not right_answers(small_vlm.model, given).any()
    given.input_ids[answer] = given.labels[answer] = tokens.flatten()
    assert right_answers(small_vlm.model, given).all()


def test_the_order_depends_on_the_step_alone(data):
    whole = [batch.keys for batch in islice(LessonLoader(data, 0), 4)]
    assert [batch.keys for batch in islice(LessonLoader(data, 2), 2)] == whole[2:]
    data.trainer = type("Two", (FakeTrainer,), {"world_size": 2})()
    parts = []
    for rank in range(2):
        data.trainer.global_rank = rank
        parts.append(next(iter(LessonLoader(data, 0))).keys)
    assert parts[0] + parts[1] == whole[0]


def test_questions_are_shared_out(data):
    (whole,) = data.questions("test", 12)
    assert [question.discipline for question in whole.questions[:6]] == [
        "exist", "count", "color", "shape", "relation", "compare",
    ]  # fmt: skip
    assert whole.pictures.shape == (12, 32, 32, 3)


@pytest.mark.parametrize(
    ("shares", "says"), [({"talk": 0.5}, "1 in sum"), ({"talk": 1.2, "edit": -0.3, "reading": 0.1}, "at least 0")]
)
def test_shares_that_make_no_sense(shares, says):
    with pytest.raises(ValueError, match=says):
        LessonShares(**shares)


def test_a_picture_that_is_no_whole_tokens(small_vlm):
    with pytest.raises(ValueError, match="whole tokens of 8 px"):
        small_vlm._image_tokens(torch.zeros(1, 36, 36, 3, dtype=torch.uint8))


def test_patches_keep_rows_apart():
    """The picture of a row is not that of its neighbour."""
    from transformers import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 4096})
    pictures = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    both, _ = patches(pictures, processor)
    assert torch.equal(both[64:], patches(pictures[1:], processor)[0])
