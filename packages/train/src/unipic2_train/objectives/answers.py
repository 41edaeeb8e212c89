"""The small VLM's objective: the next token of every answer, and of nothing else.

With ``A`` the tokens of a row's answers, those that end them included, and ``p`` the model's next-token distribution:

    loss = mean over rows of  w * mean over A of  -log p(token | all tokens before it)

Legend: B rows, S tokens of a row, A tokens of all answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

    from unipic2_train.vlm.tokens import LessonInputs

__all__ = ["AnswerLoss", "answer_loss", "right_answers"]


class AnswerLoss(NamedTuple):
    """The loss and what the monitor needs of it."""

    loss: Tensor
    """Scalar to minimise."""
    per_row: Tensor
    """Unweighted mean over each row's answer tokens, detached, (B,)."""


def answer_loss(model: Qwen2_5_VLForConditionalGeneration, inputs: LessonInputs, weight: Tensor) -> AnswerLoss:
    """Return the loss of a batch of lessons.

    The mean is over the batch's rows whatever their weights, as in `flow_matching_loss`.

    Args:
        model: The VLM.
        inputs: B rows.
        weight: Weight of each row, (B,).
    """
    logits, rows, targets = _answer_logits(model, inputs)
    errors = F.cross_entropy(logits, targets, reduction="none")  # (A,)
    per_row = _row_means(errors, rows, len(inputs.input_ids))
    return AnswerLoss((per_row * weight.to(per_row.device)).mean(), per_row.detach())


@torch.no_grad()
def right_answers(model: Qwen2_5_VLForConditionalGeneration, inputs: LessonInputs) -> Tensor:
    """Tell for each row whether greedy decoding would give its answer word by word and then stop, bool (B,).

    If every token of the answer is the likeliest after those before it, greedy decoding writes just this answer: one
    forward pass says what token after token would.
    """
    logits, rows, targets = _answer_logits(model, inputs)
    wrong = (logits.argmax(-1) != targets).float()
    return _row_means(wrong, rows, len(inputs.input_ids)) == 0


def _answer_logits(model: Qwen2_5_VLForConditionalGeneration, inputs: LessonInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits before each answer token (A, vocabulary), its row (A,) and the token itself (A,)."""
    is_image = (inputs.input_ids == model.config.image_token_id).int()
    hidden = model.model(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        pixel_values=inputs.pixel_values,
        image_grid_thw=inputs.image_grid_thw,
        # Without it the positions of pictures would be one-dimensional, silently.
        mm_token_type_ids=is_image,
        use_cache=False,
    ).last_hidden_state  # (B, S, width)
    following = inputs.labels[:, 1:]
    rows, places = (following >= 0).nonzero(as_tuple=True)
    return model.lm_head(hidden[rows, places]).float(), rows, following[rows, places]


def _row_means(values: Tensor, rows: Tensor, number: int) -> Tensor:
    """Return the mean of each row's values; (A,) and (A,) -> (B,)."""
    sums = values.new_zeros(number).index_add(0, rows, values)
    return sums / torch.bincount(rows, minlength=number).clamp(min=1)
