"""Make a tiny, complete checkpoint: the parity transformer and VAE with seeded small text encoders.

Run it as a script (``python tiny_checkpoint.py OUT``) where the tests' fixtures can't be reached.
"""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from unipic2_dit import SD3Transformer2DKontextModel, StableDiffusion3KontextPipeline

PARITY = Path(__file__).parents[3] / "tests" / "golden" / "parity"
TEXT_LENGTH = 24


def clip(seed: int) -> tuple[CLIPTextModelWithProjection, CLIPTokenizer]:
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    tokenizer.model_max_length = TEXT_LENGTH
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config).eval(), tokenizer


def t5(seed: int) -> tuple[T5EncoderModel, T5Tokenizer]:
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    tokenizer.model_max_length = TEXT_LENGTH
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=40,
        d_kv=10,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval(), tokenizer


def build() -> StableDiffusion3KontextPipeline:
    parity = PARITY / "checkpoint"
    text_encoder, tokenizer = clip(seed=1)
    text_encoder_2, tokenizer_2 = clip(seed=2)
    text_encoder_3, tokenizer_3 = t5(seed=3)
    pipeline = StableDiffusion3KontextPipeline(
        transformer=SD3Transformer2DKontextModel.from_pretrained(parity / "transformer").eval(),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(parity / "scheduler"),
        vae=AutoencoderKL.from_pretrained(parity / "vae").eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    build().save_pretrained(sys.argv[1])
