"""Reward ``ocr``: whether the text that a prompt puts in quotes can be read in the picture, by Flow-GRPO's rule.

What reads is any `Reader`: packages offer them through the entry-point group ``unipic2.readers`` (an entry point is
called without arguments and returns one), and a served vision-language model is one too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from unipic2_evals.answers import CallError, JudgeId
from unipic2_evals.http import ChatModel, HttpOptions
from unipic2_train.rewards.base import Reward, RewardRequest

if TYPE_CHECKING:
    from unipic2_evals.pictures import Pixels

__all__ = [
    "READER_GROUP",
    "OcrReward",
    "Reader",
    "ServedReader",
    "edit_distance",
    "load_reader",
    "quoted",
    "text_score",
]

READER_GROUP = "unipic2.readers"
INSTRUCTION = (
    "Write down all text that is visible in this picture, in reading order, exactly as it is spelled there, mistakes "
    "included. Write nothing else. If there is no text, write: -"
)


class Reader(Protocol):
    """Anything that reads the text in pictures."""

    def __call__(self, images: Sequence[Pixels]) -> Sequence[str | None]:
        """Return the text of each image, in reading order; ``None`` where it could not be looked at.

        Args:
            images: RGB, each uint8 (H, W, 3).
        """
        ...


class ServedReader:
    """A `Reader` that asks a vision-language model behind an OpenAI-compatible server.

    Args:
        server: The model and how to call it.
    """

    def __init__(self, server: HttpOptions) -> None:
        self.model = ChatModel(server)
        self.threads = ThreadPoolExecutor(server.concurrency)

    def __call__(self, images: Sequence[Pixels]) -> list[str | None]:
        """Return the text of each image."""
        return list(self.threads.map(self._read, images))

    def _read(self, image: Pixels) -> str | None:
        try:
            return self.model([image], INSTRUCTION)
        except CallError:
            return None


class OcrReward(Reward):
    """Likeness of the text asked for and the text read, in [0, 1]; see `text_score`.

    Args:
        reader: Name of an installed reader (entry-point group ``unipic2.readers``), or a served model that reads.
    """

    kinds = ("t2i",)

    def __init__(self, reader: str | HttpOptions) -> None:
        self.source, self.waits = reader, not isinstance(reader, str)

    def prepare(self) -> JudgeId:
        """Load or reach the reader and return which it is."""
        return self._found[1]

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,); NaN where it could not be read."""
        wanted = [quoted(prompt) for prompt in request.prompts]
        read = self._found[0]([picture.numpy() for picture in request.pictures])
        scores = [
            torch.nan if found is None else text_score(text, found) for text, found in zip(wanted, read, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float64)

    @cached_property
    def _found(self) -> tuple[Reader, JudgeId]:
        if isinstance(self.source, str):
            return load_reader(self.source)
        reader = ServedReader(self.source)
        return reader, reader.model.judge


def load_reader(name: str) -> tuple[Reader, JudgeId]:
    """Import and build an installed reader.

    Raises:
        ValueError: No installed package offers a reader of that name.
    """
    installed = {point.name: point for point in entry_points(group=READER_GROUP)}
    if name not in installed:
        msg = (
            f"no reader {name!r} is installed (entry-point group {READER_GROUP}); installed: "
            f"{', '.join(sorted(installed)) or 'none'}. A served model reads too: reader: {{url, model, revision}}"
        )
        raise ValueError(msg)
    reader: Reader = installed[name].load()()
    distribution = installed[name].dist
    assert distribution is not None
    return reader, JudgeId(name, f"{distribution.name} {distribution.version}")


def quoted(prompt: str) -> str:
    """Return the first text in double quotes.

    Raises:
        ValueError: There is none.
    """
    texts = re.findall(r'["\u201c\u201d]([^"\u201c\u201d]*)["\u201c\u201d]', prompt)
    found = next((text for text in texts if text.strip()), None)
    if found is None:
        msg = f"the prompt {prompt!r} has no text in double quotes, so there is nothing to read in its pictures"
        raise ValueError(msg)
    return found


def text_score(wanted: str, read: str) -> float:
    """Return how much of the text is there, in [0, 1].

    Without regard to case and spaces: 1 if what was read contains the text, else
    ``1 - min(distance, length) / length`` with the edit distance of the two and the length of the text.
    """
    wanted, read = ("".join(text.lower().split()) for text in (wanted, read))
    if wanted in read:
        return 1.0
    return 1 - min(edit_distance(wanted, read), len(wanted)) / len(wanted)


def edit_distance(one: str, other: str) -> int:
    """Return Levenshtein's distance: the fewest characters to put in, take out or change."""
    row = list(range(len(other) + 1))
    for number, left in enumerate(one, start=1):
        diagonal, row[0] = row[0], number
        for place, right in enumerate(other, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (left != right))
    return row[-1]
