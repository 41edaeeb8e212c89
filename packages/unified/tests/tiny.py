"""Make tiny, complete checkpoints of both kinds: the parity models with seeded small encoders.

Run it as a script (``python tiny.py KONTEXT METAQUERY VLM``) where the tests' fixtures can't be reached.
"""

import shutil
import sys
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from unipic2_vlm.small import SmallVlmConfig, write_small_vlm

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
TEXT_LENGTH = 24
WORDS = ["red", "blue", "circle", "square", "what", "colour", "is", "the", "make", "it", "and"]


def write_clip(folder: Path, number: str, seed: int) -> None:
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
    CLIPTextModelWithProjection(config).save_pretrained(folder / f"text_encoder{number}")
    tokenizer.save_pretrained(folder / f"tokenizer{number}")


def write_t5(folder: Path, seed: int) -> None:
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    tokenizer.model_max_length = TEXT_LENGTH
    torch.manual_seed(seed)
    sizes = {"d_model": 40, "d_kv": 10, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **sizes)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder_3")
    tokenizer.save_pretrained(folder / "tokenizer_3")


def write_kontext(folder: Path) -> None:
    """The DiT behind text encoders."""
    shutil.copytree(GOLDEN / "parity" / "checkpoint", folder, dirs_exist_ok=True)
    write_clip(folder, "", seed=1)
    write_clip(folder, "_2", seed=2)
    write_t5(folder, seed=3)


def write_metaquery(folder: Path) -> None:
    """The same DiT behind the connector that the released code wrote."""
    shutil.copytree(GOLDEN / "parity" / "checkpoint", folder, dirs_exist_ok=True)
    shutil.copytree(GOLDEN / "metaquery" / "conditioner", folder / "conditioner")


def write_vlm(folder: Path, width: int = 48) -> None:
    """A VLM of the connector's hidden size."""
    sizes = SmallVlmConfig(width=width, num_layers=2, num_heads=2, vision_width=16, vision_layers=2, vision_heads=2)
    write_small_vlm(folder, WORDS, sizes)


if __name__ == "__main__":
    for write, target in zip((write_kontext, write_metaquery, write_vlm), sys.argv[1:], strict=True):
        write(Path(target))
