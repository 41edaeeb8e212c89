"""Embed all prompts of a data set into a cache, each process its own parts (see `portion`).

Legend: B prompts, L tokens, D width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from unipic2_data.cache import text
from unipic2_data.cache.portion import Portion, Report, finished_records
from unipic2_data.cache.records import RecordWriter
from unipic2_data.errors import DataError
from unipic2_data.jobs import Progress, silent
from unipic2_data.randomness import keyed_hash

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TextBuild", "TextEncoder"]

PART_PROMPTS = 256
_PROBE = 8  # prompts whose size is taken for that of all


@dataclass(frozen=True)
class TextEncoder:
    """Prompts to embeddings (B, L, D) and pooled embeddings (B, P), and a hash of what decides them."""

    identity: str
    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class TextBuild:
    """Embeddings of all prompts of a data set, each distinct one once, and of the empty prompt.

    Args:
        folder: Where they go.
        portions: Whose texts; every caption of a sample counts.
        encoder: The text encoders.
        dtype: ``float32``, ``bfloat16`` or ``float8`` (e4m3 with a scale for each token).
    """

    what = "text embeddings"

    def __init__(
        self,
        folder: Path,
        portions: Sequence[Portion],
        encoder: TextEncoder,
        dtype: Literal["float32", "bfloat16", "float8"] = "bfloat16",
    ) -> None:
        self._folder, self._encoder, self._dtype = folder, encoder, dtype
        self.is_complete = False
        self._prompts = _distinct(portions)
        embeds, pooled = encoder.encode([""])
        self._shape, self._num_pooled = (embeds.shape[1], embeds.shape[2]), pooled.shape[1]
        self._header: dict[str, Any] = {
            "encoder": encoder.identity,
            "dtype": dtype,
            "shape": list(self._shape),
            "pooled": self._num_pooled,
        }

    def estimate(self) -> tuple[int, float]:
        """Return the number of distinct prompts and about how many bytes they take, from a few of them."""
        records = self._records(self._prompts[:: max(1, len(self._prompts) // _PROBE)][:_PROBE])
        return len(self._prompts), len(self._prompts) * sum(len(data) for _, data, _, _ in records) / len(records)

    def run(self, rank: int = 0, world_size: int = 1, batch_size: int = 8, progress: Progress = silent) -> Report:
        """Write this rank's parts, and the index if all are there now (`is_complete` then).

        Raises:
            DataError: If the folder holds embeddings of another encoder or dtype.
        """
        writer = RecordWriter(self._folder, self._header, self.what)
        known = finished_records(self._folder, self.what)
        report = Report(self.what)
        parts = list(self._parts())
        own = [part for part in parts[rank::world_size] if not writer.has(part[0])]
        with progress("prompts", sum(len(prompts) for _, prompts in own)) as bar:
            for name, prompts in own:
                new = [prompt for prompt in prompts if known is None or text.text_key(prompt) not in known]
                report.kept += len(prompts) - len(new)
                bar.update(len(prompts) - len(new))
                with writer.part(name) as part:
                    for start in range(0, len(new), batch_size):
                        for key, data, embeds, pooled in self._records(new[start : start + batch_size]):
                            part.add(key, data)
                            again = text.text_from_bytes(data, self._dtype, self._shape, len(pooled))
                            report.error.add(embeds, again[0])
                            report.written += 1
                            bar.update(1)
        self.is_complete = writer.finish(name for name, _ in parts)
        return report

    def _parts(self) -> Iterator[tuple[str, list[str]]]:
        for start in range(0, len(self._prompts), PART_PROMPTS):
            prompts = self._prompts[start : start + PART_PROMPTS]
            yield keyed_hash(*prompts).hex()[:12], prompts

    def _records(self, prompts: list[str]) -> list[tuple[tuple[int, int], bytes, Tensor, Tensor]]:
        embeds, pooled = (part.float().cpu() for part in self._encoder.encode(prompts))
        return [
            (text.text_key(prompt), text.text_to_bytes(rows, vector, self._dtype), rows, vector)
            for prompt, rows, vector in zip(prompts, embeds, pooled, strict=True)
        ]


def _distinct(portions: Sequence[Portion]) -> list[str]:
    """Return the empty prompt and all texts of the samples, each once; samples without any are left out."""
    prompts = {"": None}
    for portion in portions:
        for index in portion.indices:
            try:
                prompts |= dict.fromkeys(portion.store.texts(portion.kind, int(index)))
            except DataError:  # training counts it
                continue
    return list(prompts)
