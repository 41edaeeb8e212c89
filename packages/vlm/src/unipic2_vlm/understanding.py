"""Answers about pictures: the untouched Qwen2.5-VL, its stock template, its stock positions.

Greedy answers are those of stock ``generate``. Samples are exact and reproducible: with ``g = -log(-log(u))`` for
uniform u, ``argmax(log p + g)`` is distributed as p, and u comes from a generator of the row's own.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TextIteratorStreamer,
    TopPLogitsWarper,
)

from unipic2_vlm.backbone import QwenVLBackbone
from unipic2_vlm.checkpoint import Quantization, resolve_folder
from unipic2_vlm.processor import QwenVLProcessor, Turn, VlmInputs
from unipic2_vlm.queries import check_pair

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Answer", "Decoding", "Understanding", "Usage"]


@dataclass(frozen=True)
class Decoding:
    """How an answer is chosen.

    Raises:
        ValueError: If a number is out of its range.
    """

    max_new_tokens: int = 128
    """The longest answer."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; more is more varied."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together have this probability, in (0, 1]."""
    seed: int = 0
    """Of the sampling. A row's sample depends on it and on the row alone."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            msg = f"{self}: max_new_tokens is at least 1, temperature at least 0, and top_p in (0, 1]."
            raise ValueError(msg)


GREEDY = Decoding()


@dataclass
class Usage:
    """How long a question and its answer are, in tokens."""

    prompt_tokens: int
    """Of all that the VLM read: words, pictures and the template."""
    answer_tokens: int = 0
    """Of the answer, with the token that ends it."""
    cut: bool = False
    """The answer would have gone on, but is as long as it may be."""


class Answer(Iterator[str]):
    """An answer in pieces, as they come. Closing it ends the work after the token at hand.

    Args:
        pieces: The pieces.
        usage: Tokens; those of the answer are known once it is over.
    """

    def __init__(self, pieces: Generator[str], usage: Usage) -> None:
        self.usage = usage
        self._pieces = pieces

    def __next__(self) -> str:
        """Return the next piece."""
        return next(self._pieces)

    def close(self) -> None:
        """End the work."""
        self._pieces.close()


@dataclass
class Understanding:
    """A VLM that answers questions about pictures.

    Args:
        backbone: The VLM.
        processor: Its tokenizer and image processor.

    Raises:
        CheckpointError: If they are not of the same VLM.
    """

    backbone: QwenVLBackbone
    processor: QwenVLProcessor

    def __post_init__(self) -> None:
        check_pair(self.backbone, self.processor)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        quantization: Quantization | None = None,
    ) -> Understanding:
        """Load a VLM and its processor from one folder; see ``QwenVLBackbone.from_pretrained``."""
        folder = resolve_folder(source, revision=revision)
        backbone = QwenVLBackbone.from_pretrained(folder, dtype=dtype, device=device, quantization=quantization)
        return cls(backbone, QwenVLProcessor.from_pretrained(folder))

    def ask(
        self, images: Sequence[Sequence[Image.Image]], questions: Sequence[str], decoding: Decoding = GREEDY
    ) -> list[str]:
        """Answer a batch of questions.

        Args:
            images: Pictures of each question: none, one or several.
            questions: One a row.
            decoding: How answers are chosen; greedily by default.

        Returns:
            One answer a row, as if it had been asked alone.

        Raises:
            ValueError: If rows do not fit, or question and answer are longer than the VLM reads.
        """
        return self._answers(self.processor.question(images, questions), decoding)

    def ask_turns(self, conversations: Sequence[Sequence[Turn]], decoding: Decoding = GREEDY) -> list[str]:
        """Answer the last turn of each conversation; ``ask`` is one turn of the user's.

        Args:
            conversations: The turns of each row, the first one first.
            decoding: How answers are chosen; greedily by default.

        Returns:
            One answer a row, as if it had been asked alone.

        Raises:
            ValueError: If a row is empty, or conversation and answer are longer than the VLM reads.
        """
        return self._answers(self.processor.conversation(conversations), decoding)

    def stream(self, images: Sequence[Image.Image], question: str, decoding: Decoding = GREEDY) -> Answer:
        """Return the answer to one question in pieces, as they come; together they are what ``ask`` returns.

        Args:
            images: Pictures of the question: none, one or several.
            question: The question.
            decoding: How the answer is chosen; greedily by default.

        Raises:
            ValueError: If question and answer are longer than the VLM reads; at once, not on the first piece.
        """
        return self.stream_turns([Turn("user", question, images)], decoding)

    def stream_turns(self, turns: Sequence[Turn], decoding: Decoding = GREEDY) -> Answer:
        """Return the answer to the last turn of a conversation in pieces; see ``stream`` and ``ask_turns``."""
        inputs = self._checked(self.processor.conversation([turns]), decoding)
        usage = Usage(int(inputs.attention_mask.sum()))
        return Answer(self._stream(inputs, decoding, usage), usage)

    def _answers(self, read: VlmInputs, decoding: Decoding) -> list[str]:
        inputs = self._checked(read, decoding)
        tokens = self._generate(inputs, decoding)[:, inputs.input_ids.shape[1] :]
        answers: list[str] = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return answers

    def _stream(self, inputs: VlmInputs, decoding: Decoding, usage: Usage) -> Generator[str]:
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        closed, errors = Event(), []

        def work() -> None:
            try:
                tokens = self._generate(inputs, decoding, streamer=streamer, stopping_criteria=[_StopWhen(closed)])
                self._count(tokens[0, inputs.input_ids.shape[1] :], decoding, usage)
            except Exception as error:
                errors.append(error)
                streamer.end()

        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            closed.set()
            thread.join()
        if errors:
            raise errors[0]

    def _checked(self, inputs: VlmInputs, decoding: Decoding) -> VlmInputs:
        """Return inputs where the VLM is, if they and the answer are not longer than it reads."""
        self.backbone.check_inputs(
            inputs.input_ids, inputs.pixel_values, inputs.image_grid_thw, room=decoding.max_new_tokens
        )
        return inputs.to(self.backbone.device)

    def _count(self, answer: Tensor, decoding: Decoding, usage: Usage) -> None:
        ends = self.backbone.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        usage.answer_tokens = len(answer)
        usage.cut = len(answer) == decoding.max_new_tokens and int(answer[-1]) not in ends

    def _generate(
        self, inputs: VlmInputs, decoding: Decoding, stopping_criteria: Sequence[StoppingCriteria] = (), **options: Any
    ) -> Tensor:
        """Return prompts and answers as token ids, shape (B, prompt + answer)."""
        with self.backbone.evaluating() as model:
            # The folder's own settings, such as its penalty for repetition, without its way of sampling.
            config = deepcopy(model.generation_config)
            config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
            config.update(max_length=None, max_new_tokens=decoding.max_new_tokens)
            tokens: Tensor = model.generate(
                **{name: value for name, value in inputs._asdict().items() if value is not None},
                # Without it the positions of pictures would be one-dimensional, silently.
                mm_token_type_ids=(inputs.input_ids == self.backbone.image_token_id).int(),
                generation_config=config,
                logits_processor=_sampling(decoding, len(inputs.input_ids)),
                stopping_criteria=StoppingCriteriaList(stopping_criteria),
                **options,
            )
        return tokens


def _sampling(decoding: Decoding, num_rows: int) -> LogitsProcessorList:
    """Return what turns the likeliest token into a sample; nothing at temperature 0."""
    if decoding.temperature == 0:
        return LogitsProcessorList()
    warpers = [TemperatureLogitsWarper(decoding.temperature)]
    if decoding.top_p < 1:
        warpers.append(TopPLogitsWarper(decoding.top_p))
    return LogitsProcessorList([*warpers, _GumbelNoise(decoding.seed, num_rows)])


class _GumbelNoise(LogitsProcessor):
    """Adds noise so that the likeliest token is a sample; each row draws from a generator of its own."""

    def __init__(self, seed: int, num_rows: int) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for _ in range(num_rows)]

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return noisy scores, shape (B, V)."""
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=each, dtype=torch.float64) for each in self.generators]
        )
        noise = -(-uniform.clamp_min(torch.finfo(torch.float64).tiny).log()).log()
        return scores + noise.to(scores)


class _StopWhen(StoppingCriteria):
    """Ends all rows once an event is set."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_options: Any) -> Tensor:
        """Tell for each row whether it is done, shape (B,)."""
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)
