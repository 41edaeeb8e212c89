"""The small VLM that stage ``vlm`` trains: the stock model, its processor, its loss and its answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unipic2_train import export
from unipic2_train.objectives.answers import AnswerLoss, answer_loss, right_answers
from unipic2_train.vlm.lessons import words
from unipic2_train.vlm.questions import NUM_OPTIONS
from unipic2_train.vlm.tokens import LessonInputs, lesson_inputs, segments
from unipic2_vlm.checkpoint import load_model
from unipic2_vlm.processor import QwenVLProcessor
from unipic2_vlm.small import SmallVlmConfig, write_small_vlm

if TYPE_CHECKING:
    from collections.abc import Callable

    from unipic2_data.batch import Batch
    from unipic2_train.vlm.data import Questions

__all__ = ["SmallVlm"]


class SmallVlm(nn.Module):
    """A small Qwen2.5-VL to train.

    Args:
        start: Folder with its random weights, its tokenizer and image processor.
        device: Where it goes.
    """

    def __init__(self, start: Path, device: torch.device) -> None:
        super().__init__()
        self.start = start
        self.model = load_model(start, device=device)
        self.processor = QwenVLProcessor.from_pretrained(start)

    @classmethod
    def begin(
        cls, start: Path, config: SmallVlmConfig, device: torch.device, *, write: bool, barrier: Callable[[], Any]
    ) -> SmallVlm:
        """Return the model of a run's folder, which is written first if it is not there.

        It is kept for the whole run: tokens are not numbered in the same way when a tokenizer is trained again.

        Args:
            start: Where.
            config: Sizes.
            device: Where the model goes.
            write: Whether this process writes.
            barrier: Waits for all processes.
        """
        if write and not start.is_dir():
            partial = start.with_name(f".{start.name}.partial")
            write_small_vlm(partial, words(), config)
            partial.rename(start)
        barrier()
        return cls(start, device)

    def training_loss(self, batch: Batch) -> AnswerLoss:
        """Return the loss of a batch of lessons."""
        return answer_loss(self.model, self._lessons(batch).to(self.model.device), batch.weight)

    @torch.no_grad()
    def answers(self, questions: Questions) -> Tensor:
        """Tell whether questions are answered right in each rotation of their options, bool (questions, rotations)."""
        tokens = self._image_tokens(questions.pictures)
        rows = [
            segments(self.processor, "talk", [(question.asked(turn), question.answer)], tokens)
            for question in questions.questions
            for turn in range(NUM_OPTIONS)
        ]
        inputs = lesson_inputs(self.processor, rows, questions.pictures.repeat_interleave(NUM_OPTIONS, dim=0))
        return right_answers(self.model, inputs.to(self.model.device)).view(-1, NUM_OPTIONS)

    def export(self, folder: Path, facts: dict[str, Any], *, write: bool) -> None:
        """Write the model as it is now, in the layout of Hugging Face, by the one process that writes."""
        if write:
            export.save_vlm(folder, self.model, self.start, facts)

    def _lessons(self, batch: Batch) -> LessonInputs:
        assert batch.reference_bytes is not None
        tokens = self._image_tokens(batch.reference_bytes)
        rows = [
            segments(self.processor, meta["lesson"], meta["turns"], tokens if meta["picture"] else 0)
            for meta in batch.meta
        ]
        return lesson_inputs(self.processor, rows, batch.reference_bytes.cpu())

    def _image_tokens(self, pictures: Tensor) -> int:
        """Return how many tokens a picture (N, H, W, 3) becomes.

        Raises:
            ValueError: If the VLM would scale it.
        """
        edge = self.processor.pixels_per_token
        height, width = pictures.shape[1:3]
        if height % edge or width % edge:
            msg = f"pictures of {width}x{height} px are not whole tokens of {edge} px: set data.size to a multiple"
            raise ValueError(msg)
        return height // edge * (width // edge)
