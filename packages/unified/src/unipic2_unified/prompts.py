"""Prompts to conditioning, each distinct one encoded once; encoders that can wait elsewhere, or go.

Legend: B prompts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import NamedTuple

import torch

from unipic2_dit.conditioning import Conditioning
from unipic2_unified.encoders import Encoders, Prompt
from unipic2_unified.errors import NotCapableError, RequestError, refusals

__all__ = ["CacheInfo", "PromptCache", "check_offload"]

CACHE_BYTES = 256 * 2**20
"""About 48 prompts of SD3.5 in float32, twice as many in bfloat16."""
ENCODED_ROWS = 32
"""Prompts that are encoded at once, at most."""


class CacheInfo(NamedTuple):
    """How a cache is doing."""

    hits: int
    """Prompts that were there."""
    misses: int
    """Prompts that had to be encoded."""
    rows: int
    """Prompts in it now."""
    bytes: int
    """Their memory."""


class PromptCache:
    """Encodes prompts and keeps the most recently used.

    What is kept is of the encoders as they were: while they are trained, keep nothing (``max_bytes=0``).

    Args:
        encoders: What reads the prompts, or ``None``.
        device: Where conditioning is wanted.
        offload: The encoders wait on the CPU and are on the device only while they work.
        max_bytes: The most memory that is kept.

    Raises:
        RequestError: If encoders should be off-loaded from a CPU to itself.
    """

    def __init__(
        self, encoders: Encoders | None, device: torch.device, *, offload: bool = False, max_bytes: int = CACHE_BYTES
    ) -> None:
        if offload:
            check_offload(device)
        self.encoders = encoders
        self.device = device
        self.offload = offload
        self.max_bytes = max_bytes
        self._rows: OrderedDict[Prompt, Conditioning] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = RLock()

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Return the conditioning of prompts, B rows.

        Raises:
            NotCapableError: If there are no encoders and one of the prompts isn't in the cache.
            RequestError: If the encoders can't read a prompt or picture.
        """
        with self._lock:
            new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]
            self._hits += len(prompts) - len(new)
            if new:
                self._encode(new)
            for prompt in prompts:
                self._rows.move_to_end(prompt)
            result = Conditioning.cat([self._rows[prompt] for prompt in prompts])
            self._shrink()
        return result

    def info(self) -> CacheInfo:
        """Tell how the cache is doing."""
        return CacheInfo(self._hits, self._misses, len(self._rows), self._bytes)

    def drop(self) -> None:
        """Let go of the encoders; what is in the cache stays."""
        with self._lock:
            self.encoders = None

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Have the encoders on the device as long as the context lasts."""
        if not self.offload or self.encoders is None:
            yield
            return
        with self._lock:
            modules = self.encoders.modules().values()
            try:
                for module in modules:
                    module.to(self.device)
                yield
            finally:
                for module in modules:
                    module.to("cpu")

    def _encode(self, new: list[Prompt]) -> None:
        if self.encoders is None:
            msg = (
                f"The prompt {new[0].text!r} can't be read: this model has no text encoders (or VLM) any more, or was "
                f"loaded without, and only the {len(self._rows)} prompts in its cache still work. Load it with them; "
                f"offload=True keeps them on the CPU while they rest."
            )
            raise NotCapableError(msg)
        with self.awake():
            for start in range(0, len(new), ENCODED_ROWS):
                some = new[start : start + ENCODED_ROWS]
                with refusals():
                    made = self.encoders.encode(some, self.device)
                for index, prompt in enumerate(some):
                    # A copy: a view would keep the whole batch in memory.
                    row = Conditioning(*(part[index : index + 1].clone() for part in made))
                    self._rows[Prompt(prompt.text, prompt.edit, None, prompt.digest)] = row
                    self._bytes += _size(row)
        self._misses += len(new)

    def _shrink(self) -> None:
        # Without encoders nothing could come back.
        while self._bytes > self.max_bytes and self.encoders is not None:
            _, oldest = self._rows.popitem(last=False)
            self._bytes -= _size(oldest)


def check_offload(device: torch.device) -> None:
    """Make sure that off-loading encoders from a device frees memory there.

    Raises:
        RequestError: If the device is the CPU.
    """
    if device.type == "cpu":
        msg = "offload moves encoders between a GPU and the CPU, but this runs on the CPU: leave it out."
        raise RequestError(msg)


def _size(row: Conditioning) -> int:
    return sum(part.nbytes for part in row)
