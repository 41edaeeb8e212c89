import itertools

import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from unipic2_vlm.checkpoint import CheckpointError
from unipic2_vlm.processor import Turn
from unipic2_vlm.understanding import Decoding, Understanding, _GumbelNoise

SHORT = Decoding(max_new_tokens=8)
SAMPLED = Decoding(max_new_tokens=8, temperature=1.5, seed=3)


def stock_answer(folder, pictures, question, **options):
    """One answer by nothing but transformers."""
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": question}]
    return stock_reply(folder, pictures, [{"role": "user", "content": content}], **options)


def stock_reply(folder, pictures, messages, **options):
    """The answer to a conversation by nothing but transformers."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    given = {}
    if pictures:
        given = dict(Qwen2VLImageProcessorPil.from_pretrained(folder)(images=pictures, return_tensors="pt"))
        for count in (given["image_grid_thw"].prod(dim=1) // 4).tolist():
            text = text.replace("<|image_pad|>", "<|x|>" * count, 1)
        text = text.replace("<|x|>", "<|image_pad|>")
    ids = tokenizer(text, return_tensors="pt")
    is_image = (ids["input_ids"] == model.config.image_token_id).int()
    made = model.generate(**ids, **given, mm_token_type_ids=is_image, do_sample=False, max_new_tokens=8, **options)
    return tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def rows(picture):
    shown = [[picture(1)], [picture(2, width=48), picture(3)], []]
    return shown, ["what is it", "what colour is the circle left of the square", "what"]


def test_greedy_answers_are_the_stock_ones_alone_and_in_a_batch(understanding, small_folder, picture):
    shown, questions = rows(picture)
    answers = understanding.ask(shown, questions, SHORT)
    assert len(set(answers)) == 3
    assert answers == [stock_answer(small_folder, *row) for row in zip(shown, questions, strict=True)]
    assert answers == [understanding.ask([a], [b], SHORT)[0] for a, b in zip(shown, questions, strict=True)]


def test_conversations_are_turns_of_the_stock_template(understanding, small_folder, picture):
    turns = [
        Turn("system", "red"),
        Turn("user", "what is it", [picture(1)]),
        Turn("assistant", "the circle", [picture(2, width=48)]),
        Turn("user", "what colour is it"),
    ]
    messages = [
        {
            "role": turn.role,
            "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": turn.text}],
        }
        for turn in turns
    ]
    expected = stock_reply(small_folder, [picture(1), picture(2, width=48)], messages)
    others = [turns[1:], [turns[-1]]]
    answers = understanding.ask_turns([turns, *others], SHORT)
    assert answers[0] == expected
    assert len(set(answers)) == 3
    assert answers[2] == understanding.ask([[]], ["what colour is it"], SHORT)[0]
    assert "".join(understanding.stream_turns(turns, SHORT)) == expected
    with pytest.raises(ValueError, match="has no turn"):
        understanding.ask_turns([turns, []])


def test_tokens_are_counted(understanding, picture):
    shown, question = [picture(1), picture(2, width=64)], "what is it"
    answer = understanding.stream(shown, question, Decoding(max_new_tokens=4))
    words = understanding.processor.question([shown], [question])
    assert answer.usage.prompt_tokens == words.input_ids.shape[1]
    list(answer)
    whole = understanding._generate(words, Decoding(max_new_tokens=4))[0, words.input_ids.shape[1] :]
    ends = int(whole[-1]) == understanding.processor.tokenizer.eos_token_id
    assert (answer.usage.answer_tokens, answer.usage.cut) == (len(whole), len(whole) == 4 and not ends)
    # Make what it says the token that ends answers.
    understanding.backbone.model.generation_config.eos_token_id = [int(whole[0]), 1]
    answer = understanding.stream(shown, question, Decoding(max_new_tokens=1))
    list(answer)
    assert (answer.usage.answer_tokens, answer.usage.cut) == (1, False)


def test_the_folders_own_settings_hold(understanding, small_copy, picture):
    """Qwen2.5-VL's folder asks for a penalty for repetition, and for sampling, which a greedy answer ignores."""
    config = understanding.backbone.model.generation_config
    config.update(repetition_penalty=5.0, do_sample=True, temperature=0.1, top_k=1, top_p=0.001)
    asked = [[picture(1)]], ["what is it"]
    answer = understanding.ask(*asked, SHORT)
    assert answer == [stock_answer(small_copy, asked[0][0], asked[1][0], repetition_penalty=5.0)]
    config.repetition_penalty = None
    assert answer != understanding.ask(*asked, SHORT)


def test_pictures_and_their_order_matter(understanding, picture):
    question, (a, b) = "what is it", (picture(1), picture(2))
    answers = {understanding.ask([shown], [question], SHORT)[0] for shown in ([a], [b], [a, b], [b, a], [])}
    assert len(answers) == 5


@pytest.mark.parametrize("decoding", [SHORT, SAMPLED], ids=["greedy", "sampled"])
def test_a_stream_is_the_answer_in_pieces(understanding, picture, decoding):
    pieces = list(understanding.stream([picture(1)], "what is it", decoding))
    assert "".join(pieces) == understanding.ask([[picture(1)]], ["what is it"], decoding)[0]
    assert all(pieces)


def test_a_closed_stream_stops_working(understanding, picture):
    steps = []
    understanding.backbone.model.lm_head.register_forward_hook(lambda *_: steps.append(1))
    stream = understanding.stream([picture(1)], "what is it", Decoding(max_new_tokens=3000, temperature=1.0))
    list(itertools.islice(stream, 1))
    stream.close()
    assert 0 < len(steps) < 3000


def test_errors_of_a_stream_reach_its_reader(understanding, picture):
    understanding.backbone.model.lm_head.double()
    with pytest.raises(RuntimeError, match="dtype"):
        list(understanding.stream([picture(1)], "what is it", SHORT))


def test_samples_depend_on_seed_and_row_alone(understanding, picture):
    shown, questions = rows(picture)
    answers = understanding.ask(shown, questions, SAMPLED)
    torch.manual_seed(99)
    assert answers == [understanding.ask([a], [b], SAMPLED)[0] for a, b in zip(shown, questions, strict=True)]
    assert answers != understanding.ask(shown, questions, SHORT)
    others = {
        understanding.ask(shown[:1], questions[:1], Decoding(max_new_tokens=8, temperature=1.5, seed=seed))[0]
        for seed in range(5)
    }
    assert len(others) > 2


def test_a_tiny_top_p_is_greedy(understanding, picture):
    asked = [[picture(1)]], ["what is it"]
    assert understanding.ask(*asked, Decoding(8, temperature=1.5, top_p=1e-6)) == understanding.ask(*asked, SHORT)


def test_noise_makes_exact_samples():
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    noise, draws = _GumbelNoise(0, 1), 4000
    taken = torch.tensor([int(noise(None, probabilities.log()[None]).argmax()) for _ in range(draws)])
    found = torch.bincount(taken, minlength=4) / draws
    assert ((found - probabilities).abs() <= 4 * (probabilities * (1 - probabilities) / draws).sqrt()).all()


def test_answers_do_not_mind_gradient_checkpointing(understanding, picture):
    asked = [[picture(1)]], ["what is it"]
    expected = understanding.ask(*asked, SHORT)
    understanding.backbone.enable_gradient_checkpointing()
    assert understanding.ask(*asked, SHORT) == expected
    assert understanding.backbone.model.model.language_model.training


def test_too_long_is_said_before_anything_runs(understanding, picture):
    with pytest.raises(ValueError, match="but this VLM reads 4096"):
        understanding.ask([[]], ["what"], Decoding(max_new_tokens=4096))
    with pytest.raises(ValueError, match=r"\(4096 of the batch from pictures\)"):
        understanding.stream([picture(1, width=512, height=512)], "what")


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_impossible_decoding_is_refused(wrong):
    with pytest.raises(ValueError, match="top_p in"):
        Decoding(**wrong)


def test_loads_from_one_folder_and_refuses_parts_of_two(understanding, small_folder, backbone):
    whole = Understanding.from_pretrained(small_folder)
    assert whole.ask([[]], ["what"], SHORT) == understanding.ask([[]], ["what"], SHORT)
    with pytest.raises(CheckpointError, match="take both from one folder"):
        Understanding(backbone, whole.processor)
