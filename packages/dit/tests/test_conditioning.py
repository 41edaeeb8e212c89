import pytest
import torch

from unipic2_dit.conditioning import Conditioning


def rows(*values, length=3):
    column = torch.tensor(values, dtype=torch.float32)
    return Conditioning(column[:, None, None].expand(-1, length, 4).clone(), column[:, None].expand(-1, 2).clone())


def first(conditioning):
    embeds, pooled = conditioning.prompt_embeds[:, 0, 0], conditioning.pooled_projections[:, 0]
    assert torch.equal(embeds, pooled)
    return embeds.tolist()


def test_rows_cat_repeat_and_where_keep_the_two_parts_together():
    assert first(rows(1, 2, 3).rows(torch.tensor([2, 0]))) == [3, 1]
    assert first(Conditioning.cat([rows(1), rows(2, 3)])) == [1, 2, 3]
    assert first(rows(1, 2).repeat(2)) == [1, 1, 2, 2]
    assert first(rows(1, 2, 3).where(torch.tensor([True, False, True]), rows(9))) == [1, 9, 3]


def test_to_changes_both_parts():
    moved = rows(1).to(dtype=torch.bfloat16)
    assert {part.dtype for part in moved} == {torch.bfloat16}


def test_rows_of_other_lengths_are_not_padded():
    with pytest.raises(ValueError, match="same text length"):
        Conditioning.cat([rows(1), rows(2, length=5)])
