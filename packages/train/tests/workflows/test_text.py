import ast
import os
import subprocess
import sys

import pytest
import torch

from unipic2_data.shapes.grammar import vocabulary
from unipic2_train.workflows.text import TextConfig, make_text_encoders, write_text_encoders


def test_every_word_is_one_token(frozen):
    text = frozen.text
    for tokenizer in (text.tokenizer, text.tokenizer_2):
        many = {word: tokenizer(word).input_ids for word in vocabulary()}
        assert {word: ids for word, ids in many.items() if len(ids) != 3} == {}, "start, word, end"
        assert len({ids[1] for ids in many.values()}) == len(vocabulary())
    many = {word: text.tokenizer_3(word).input_ids for word in vocabulary()}
    assert {word: ids for word, ids in many.items() if len(ids) != 2} == {}, "word, end"
    assert len({ids[0] for ids in many.values()}) == len(vocabulary())


def test_no_word_is_unknown_in_a_sentence(frozen, batch):
    text = frozen.text
    for kind in ("t2i", "edit"):
        for prompt in batch(kind, 24).prompts:
            words = len(prompt.split())
            assert len(text.tokenizer(prompt).input_ids) == words + 2, prompt
            assert len(text.tokenizer_3(prompt).input_ids) == words + 1, prompt
            assert text.tokenizer_3.unk_token_id not in text.tokenizer_3(prompt).input_ids


def test_other_letters_are_read_too(frozen):
    ids = frozen.text.tokenizer_3("Zebra? 9%").input_ids
    assert frozen.text.tokenizer_3.unk_token_id not in ids


def test_different_prompts_have_different_embeddings(frozen):
    prompts = ["a red circle", "a blue circle", "a red square", "circle red a", ""]
    conditioning = frozen.text(prompts)
    for one in range(len(prompts)):
        for two in range(one):
            pair = (prompts[one], prompts[two])
            assert (conditioning.pooled_projections[one] - conditioning.pooled_projections[two]).abs().max() > 0.05, (
                pair
            )
            assert (conditioning.prompt_embeds[one] - conditioning.prompt_embeds[two]).abs().max() > 0.05, pair


def test_the_seed_alone_decides(tmp_path):
    words = ["red", "circle"]
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        torch.manual_seed(len(name))
        config = TextConfig(clip_width=16, t5_width=32, max_tokens=8, seed=seed)
        write_text_encoders(tmp_path / name, make_text_encoders(words, config))
    for file in ("text_encoder/model.safetensors", "text_encoder_3/model.safetensors", "tokenizer/tokenizer.json"):
        one, two, other = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "other"))
        assert one == two, file
        assert (one == other) == file.startswith("tokenizer"), file
    first, second = ((tmp_path / "one" / f"text_encoder{n}" / "model.safetensors").read_bytes() for n in ("", "_2"))
    assert first != second, "the two CLIPs differ"


def test_a_vocabulary_is_the_same_in_every_process():
    script = (
        "from unipic2_data.shapes.grammar import vocabulary\n"
        "from unipic2_train.workflows.text import TextConfig, make_text_encoders\n"
        "print(make_text_encoders(vocabulary(), TextConfig()).clip_tokenizer.get_vocab())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        for seed in "12"
    ]
    vocabularies = [ast.literal_eval(run.stdout.decode()) for run in runs]
    assert len(vocabularies[0]) > len(vocabulary())
    assert vocabularies[0] == vocabularies[1]


def test_too_narrow_a_t5():
    with pytest.raises(ValueError, match="at least twice clip_width"):
        make_text_encoders(["red"], TextConfig(clip_width=32, t5_width=32))
