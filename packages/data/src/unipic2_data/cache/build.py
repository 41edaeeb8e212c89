"""Write a cache: run encoders over the samples of a data set, each process its own parts.

Any number of processes may work on a cache at once, together or one after the other: parts are made of the samples
alone, a rank takes every so-manieth, and a part that is there is left as it is. So a build that was killed goes on when
it is run again, with any number of ranks, and a data set that grew or got other captions costs only what is new.

Legend: B pictures or prompts, C latent channels, h/w latent height/width, L tokens, D width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from unipic2_data.cache import latents, text
from unipic2_data.cache.records import RecordReader, RecordWriter
from unipic2_data.errors import DataError
from unipic2_data.jobs import Progress, silent
from unipic2_data.loader import Decoded, SampleStore, make_batch
from unipic2_data.randomness import keyed_hash
from unipic2_data.sample import Sample, texts_of
from unipic2_data.transform import Transform

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LatentBuild", "PictureEncoder", "Pictures", "Report", "TextBuild", "TextEncoder"]

PART_SAMPLES = 1024
PART_PROMPTS = 256
_PROBE = 8  # prompts whose size is taken for that of all
_SHOWN = 5  # left out samples that the report names


@dataclass(frozen=True)
class PictureEncoder:
    """Pixels (B, 3, H, W) in [-1, 1] to mean and log-variance (B, 2, C, h, w), and a hash of what decides them."""

    identity: str
    encode: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TextEncoder:
    """Prompts to embeddings (B, L, D) and pooled embeddings (B, P), and a hash of what decides them."""

    identity: str
    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Pictures:
    """Samples of one kind, by number, that training sees at one size (H, W) in pixels."""

    kind: str
    size: tuple[int, int]
    indices: np.ndarray | range


@dataclass
class Report:
    """What one process did: records written, samples left out and why, and the error of storing them."""

    what: str
    written: int = 0
    kept: int = 0
    skipped: list[str] = field(default_factory=list)
    error: latents.RoundingError = field(default_factory=latents.RoundingError)

    def __str__(self) -> str:
        lines = [f"{self.what}: wrote {self.written} records, {self.kept} were there"]
        if self.written:
            lines[0] += f"; relative error of storing them {self.error.relative:.2e}"
        if self.skipped:
            more = f", and {len(self.skipped) - _SHOWN} more" if len(self.skipped) > _SHOWN else ""
            lines.append(f"  {len(self.skipped)} damaged samples left out: {'; '.join(self.skipped[:_SHOWN])}{more}")
        return "\n".join(lines)


class LatentBuild:
    """Latents of the pictures of a data set.

    Args:
        folder: Where they go.
        store: The samples.
        pictures: Which of them, at which sizes.
        encoder: The autoencoder.
        dtype: ``float32`` or ``bfloat16``.
        flips: Encode the mirrored pictures too: the latents of a mirrored picture are not the mirrored latents.
    """

    what = "latents"

    def __init__(
        self,
        folder: Path,
        store: SampleStore,
        pictures: Sequence[Pictures],
        encoder: PictureEncoder,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        *,
        flips: bool = False,
    ) -> None:
        self.folder, self._store, self._pictures = folder, store, pictures
        self._encoder, self._dtype, self._flips = encoder, dtype, flips
        self._header = {"encoder": encoder.identity, "transform": Transform.identity, "dtype": dtype}

    def estimate(self) -> tuple[int, float]:
        """Return the number of records and about how many bytes they take, from one sample of each size and kind."""
        count, size = 0, 0.0
        for pictures in self._pictures:
            sample = self._store.read(pictures.kind, int(pictures.indices[0]))
            records = self._records([(sample, self._store.sample(pictures.kind, int(pictures.indices[0])))], pictures)
            number = len(records) * len(pictures.indices)
            count += number
            size += number * sum(len(data) for _, data, _ in records) / len(records)
        return count, size

    def run(self, rank: int = 0, world_size: int = 1, batch_size: int = 8, progress: Progress = silent) -> Report:
        """Write this rank's parts, and the index if all are there now.

        Raises:
            DataError: If the folder holds latents of another encoder, transform or dtype.
        """
        writer = RecordWriter(self.folder, self._header, self.what)
        known = _reader(self.folder, self.what)
        report = Report(self.what)
        parts = list(self._parts())
        own = [part for part in parts[rank::world_size] if not writer.has(part[0])]
        with progress("samples", sum(len(pictures.indices) for _, pictures in own)) as bar:
            for name, pictures in own:
                with writer.part(name) as part:
                    for start in range(0, len(pictures.indices), batch_size):
                        chunk = pictures.indices[start : start + batch_size]
                        samples = self._read(pictures.kind, chunk, report)
                        samples = [one for one in samples if not self._is_known(one[0], pictures.size, known, report)]
                        for key, data, values in self._records(samples, pictures):
                            part.add(key, data)
                            report.error.add(values, latents.latents_from_bytes(data, self._dtype))
                            report.written += 1
                        bar.update(len(chunk))
        writer.finish(name for name, _ in parts)
        return report

    def _parts(self) -> Iterator[tuple[str, Pictures]]:
        """Yield parts and their names, which say what is in them."""
        for pictures in self._pictures:
            height, width = pictures.size
            for start in range(0, len(pictures.indices), PART_SAMPLES):
                indices = np.asarray(pictures.indices[start : start + PART_SAMPLES], np.int64)
                request = (self._store.manifest.digest, self._store.split, indices.tobytes().hex(), str(self._flips))
                name = f"{pictures.kind}-{height}x{width}-{keyed_hash(*request).hex()[:12]}"
                yield name, Pictures(pictures.kind, pictures.size, indices)

    def _read(self, kind: str, indices: np.ndarray | range, report: Report) -> list[tuple[Sample, Decoded]]:
        found = []
        for index in map(int, indices):
            try:
                found.append((self._store.read(kind, index), self._store.sample(kind, index)))
            except DataError as error:
                report.skipped.append(str(error))
        return found

    def _is_known(self, sample: Sample, size: tuple[int, int], known: RecordReader | None, report: Report) -> bool:
        keys = [key for flipped in self._orientations() for key in latents.keys_of(sample, size, flipped=flipped)]
        there = known is not None and all(key in known for key in keys)
        report.kept += len(keys) if there else 0
        return there

    def _records(
        self, samples: list[tuple[Sample, Decoded]], pictures: Pictures
    ) -> list[tuple[tuple[int, int], bytes, Tensor]]:
        """Return key, record and values of all pictures of some samples."""
        if not samples:
            return []
        batch = make_batch([decoded for _, decoded in samples], [0] * len(samples), Transform(pictures.size))
        assert batch.pixels is not None
        records = []
        for flipped in self._orientations():
            roles = [self._encode(pixels, flipped) for pixels in (batch.pixels, batch.references) if pixels is not None]
            for row, (sample, _) in enumerate(samples):
                for key, moments in zip(latents.keys_of(sample, pictures.size, flipped=flipped), roles, strict=True):
                    records.append((key, latents.latents_to_bytes(moments[row], self._dtype), moments[row]))
        return records

    def _encode(self, pixels: Tensor, flipped: bool) -> Tensor:
        return self._encoder.encode(pixels.flip(-1) if flipped else pixels).float().cpu()

    def _orientations(self) -> tuple[bool, ...]:
        return (False, True) if self._flips else (False,)


class TextBuild:
    """Embeddings of all prompts of a data set, each distinct one once, and of the empty prompt.

    Args:
        folder: Where they go.
        store: The samples; every caption of a sample counts.
        kinds: Kinds whose texts are encoded.
        encoder: The text encoders.
        dtype: ``float32``, ``bfloat16`` or ``float8`` (e4m3 with a scale for each token).
    """

    what = "text embeddings"

    def __init__(
        self,
        folder: Path,
        store: SampleStore,
        kinds: Sequence[str],
        encoder: TextEncoder,
        dtype: Literal["float32", "bfloat16", "float8"] = "bfloat16",
    ) -> None:
        self.folder, self._encoder, self._dtype = folder, encoder, dtype
        self._prompts = _distinct(store, kinds)
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
        """Write this rank's parts, and the index if all are there now.

        Raises:
            DataError: If the folder holds embeddings of another encoder or dtype.
        """
        writer = RecordWriter(self.folder, self._header, self.what)
        known = _reader(self.folder, self.what)
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
        writer.finish(name for name, _ in parts)
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


def _distinct(store: SampleStore, kinds: Sequence[str]) -> list[str]:
    """Return the empty prompt and all texts of the samples, each once; those of damaged samples are left out."""
    prompts = {"": None}
    for kind in kinds:
        for index in range(store.counts[kind]):
            try:
                sample = store.read(kind, index)
                prompts |= dict.fromkeys(texts_of(sample.kind, sample.meta, sample.key))
            except DataError:  # the build of the latents counts it
                continue
    return list(prompts)


def _reader(folder: Path, what: str) -> RecordReader | None:
    """Return a reader of what earlier builds finished, or None."""
    return RecordReader(folder, what) if (folder / "index.npy").is_file() else None
