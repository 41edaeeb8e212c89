import pytest
import torch

from unipic2_data.cache.text import text_from_bytes, text_key, text_to_bytes

L, D, P = 12, 16, 6


@pytest.fixture
def embedding():
    """CLIP's narrow rows above T5's wide ones, as in SD3; the last rows are masked padding."""
    generator = torch.Generator().manual_seed(0)
    embeds, pooled = torch.randn(L, D, generator=generator), torch.randn(P, generator=generator)
    embeds[:5, 8:] = 0
    embeds[10:] = 0
    embeds[6] *= 1000
    return embeds, pooled


def back(data, dtype):
    return text_from_bytes(data, dtype, (L, D), P)


def test_float32_is_exact_and_trimmed(embedding):
    data = text_to_bytes(*embedding, "float32")
    assert len(data) == 4 + 3 * 8 + 4 * (P + 5 * 8 + 5 * D), "no zeros are stored"
    assert all(torch.equal(one, other) for one, other in zip(back(data, "float32"), embedding, strict=True))


def test_bfloat16_is_rounding_alone(embedding):
    embeds, pooled = back(text_to_bytes(*embedding, "bfloat16"), "bfloat16")
    assert torch.equal(embeds, embedding[0].bfloat16())
    assert torch.equal(pooled, embedding[1])


def test_float8_keeps_every_row_within_its_own_range(embedding):
    data = text_to_bytes(*embedding, "float8")
    assert len(data) < len(text_to_bytes(*embedding, "bfloat16"))
    embeds, _ = back(data, "float8")
    assert embeds.dtype == torch.bfloat16
    row_error = (embeds.float() - embedding[0]).norm(dim=1) / embedding[0].norm(dim=1).clamp(min=1e-9)
    assert row_error.max() < 0.04
    assert torch.equal(embeds == 0, embedding[0] == 0)


def test_rows_of_one_width_each():
    embeds = torch.tril(torch.ones(4, 4))
    assert torch.equal(
        text_from_bytes(text_to_bytes(embeds, torch.ones(1), "float32"), "float32", (4, 4), 1)[0], embeds
    )


def test_nothing_but_zeros():
    zeros = torch.zeros(4, 4)
    assert torch.equal(text_from_bytes(text_to_bytes(zeros, zeros[0], "float8"), "float8", (4, 4), 4)[0].float(), zeros)


def test_prompts_have_keys_of_their_own():
    assert len({text_key(prompt) for prompt in ("", " ", "a", "A", "a ")}) == 5
