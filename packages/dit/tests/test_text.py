import logging

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from unipic2_dit.text import TextConditioner

PROMPTS = ["a red circle", "", "two blue squares"]


@pytest.fixture(scope="module")
def conditioner(checkpoint):
    return TextConditioner.from_pretrained(checkpoint)


@pytest.mark.parametrize("with_t5", [True, False])
def test_equals_diffusers(pipeline, with_t5):
    parts = {
        name: getattr(pipeline, name)
        for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    }
    if not with_t5:
        parts["text_encoder_3"] = parts["tokenizer_3"] = None
    stock = StableDiffusion3Pipeline(
        transformer=pipeline.transformer, scheduler=pipeline.scheduler, vae=pipeline.vae, **parts
    )
    ours = TextConditioner(**parts, joint_attention_dim=40)
    length = ours.t5_length
    assert length == (24 if with_t5 else 256)
    embeds, negative, pooled, negative_pooled = stock.encode_prompt(
        PROMPTS, None, None, negative_prompt=[""] * 3, max_sequence_length=length
    )
    conditioning, empty = ours(PROMPTS), ours([""])
    torch.testing.assert_close(conditioning.prompt_embeds, embeds)
    torch.testing.assert_close(conditioning.pooled_projections, pooled)
    torch.testing.assert_close(empty.prompt_embeds.expand_as(negative), negative)
    torch.testing.assert_close(empty.pooled_projections.expand_as(negative_pooled), negative_pooled)
    assert conditioning.prompt_embeds.shape[1] == ours.num_tokens


def test_prompts_differ_in_every_part(conditioner):
    a, b = conditioner(["a red circle", "a red square"]).pooled_projections
    assert (a - b).abs().max() > 1e-3
    embeds = conditioner(["a red circle", "a red square"]).prompt_embeds
    clip, t5 = embeds[:, :24], embeds[:, 24:]
    assert (clip[0] - clip[1]).abs().max() > 1e-3
    assert (t5[0] - t5[1]).abs().max() > 1e-3


def test_a_row_does_not_depend_on_its_neighbours(conditioner):
    together = conditioner(PROMPTS)
    alone = conditioner(PROMPTS[1:2])
    torch.testing.assert_close(together.prompt_embeds[1:2], alone.prompt_embeds)


def test_what_is_cut_is_said(conditioner, caplog):
    with caplog.at_level(logging.WARNING):
        conditioner(["a red circle"])
        assert not caplog.messages
        conditioner(["a red circle and then something far too long"])
    assert "ignored" in caplog.text


def test_encoders_are_frozen_and_results_have_no_graph(conditioner):
    assert not any(parameter.requires_grad for encoder in conditioner.encoders() for parameter in encoder.parameters())
    assert not conditioner(["x"], dtype=torch.bfloat16).prompt_embeds.requires_grad


def test_t5_can_be_left_out_of_the_load(checkpoint):
    small = TextConditioner.from_pretrained(checkpoint, use_t5=False)
    assert small.text_encoder_3 is None
    assert small(["x"]).prompt_embeds[:, 24:].abs().max() == 0
