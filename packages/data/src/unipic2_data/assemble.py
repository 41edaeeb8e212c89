"""Put decoded samples together into a batch; what cannot be used keeps its row, with weight 0."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import get_worker_info

from unipic2_data.batch import Batch
from unipic2_data.errors import DataError
from unipic2_data.quarantine import BadSample, Fault
from unipic2_data.randomness import keyed_rng
from unipic2_data.store import Decoded, check, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from unipic2_data.sample import Sample
    from unipic2_data.transform import Transform

__all__ = ["Encoded", "assemble", "make_batch"]

_WITH_PIXELS, _WITH_REFERENCE = frozenset({"t2i", "edit"}), "edit"


class Encoded(Protocol):
    """Pictures and texts that were encoded earlier, see `unipic2_data.cache`."""

    @property
    def has_latents(self) -> bool:
        """Whether pictures need not be decoded."""
        ...

    @property
    def encoders(self) -> dict[str, str]:
        """Hashes of the encoders of "latents" and "text"."""
        ...

    def moments(self, sample: Sample, size: tuple[int, int], *, flipped: bool = False) -> list[Tensor]:
        """Return mean and log-variance of a sample's target, then of its references, (2, C, h, w) each."""
        ...

    def embeddings(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return embeddings (B, L, D) and pooled embeddings (B, P) of prompts, or None."""
        ...


@dataclass(slots=True)
class _Row:
    """What a sample brings to a batch."""

    key: str
    prompt: str
    meta: dict[str, Any]
    target: np.ndarray | None = None
    reference: np.ndarray | None = None
    moments: list[Tensor] = field(default_factory=list)
    fault: Fault | None = None


def make_batch(
    samples: Sequence[Decoded], visits: Iterable[int], transform: Transform, seed: int | None = None
) -> Batch:
    """Assemble sound samples of one kind into a batch.

    Args:
        samples: B samples.
        visits: Visit of each sample.
        transform: Brings the pictures to one size.
        seed: Seed of the choice among several captions, keyed by sample and visit; None = always the first.

    Raises:
        DataError: If a sample's pictures do not fit each other.
    """
    visits = [int(visit) for visit in visits]
    rows = [_row(sample, visit, transform, seed) for sample, visit in zip(samples, visits, strict=True)]
    return _stack(samples[0].kind, rows, visits, transform.size)


def assemble(
    kind: str,
    samples: Sequence[tuple[Sample | Fault, str]],
    visits: Sequence[int],
    transform: Transform,
    seed: int,
    encoded: Encoded | None = None,
    flip: float = 0.0,
) -> Batch:
    """Assemble samples, as they were read, into a batch of training; a bad one keeps its row with weight 0.

    Args:
        kind: Kind of all samples.
        samples: B samples, pictures still encoded, or what is wrong with them; and where each is.
        visits: Visit of each sample.
        transform: Brings the pictures to one size.
        seed: Seed of the choice among several captions.
        encoded: Pictures and texts that were encoded earlier, to be used instead of these; None = there are none.
        flip: Share of samples whose pictures are mirrored, keyed by sample and visit.
    """
    rows: list[_Row] = []
    use_latents = encoded is not None and encoded.has_latents and kind in _WITH_PIXELS
    for (sample, where), visit in zip(samples, visits, strict=True):
        if isinstance(sample, Fault):
            rows.append(_Row(where, "", {}, fault=sample))
            continue
        flipped = flip > 0 and keyed_rng(seed, sample.key, visit, "flip").random() < flip
        try:
            if use_latents:
                assert encoded is not None
                texts = check(sample, where)
                moments = encoded.moments(sample, transform.size, flipped=flipped)
                rows.append(_Row(sample.key, _choose(texts, sample.key, visit, seed), sample.meta, moments=moments))
            else:
                rows.append(_row(decode(sample, where, transform.size), visit, transform, seed, flipped=flipped))
        except BadSample as error:
            rows.append(_Row(sample.key, "", {}, fault=error.fault))
    batch = _stack(kind, rows, visits, transform.size, pixels=not use_latents)
    if encoded is not None:
        if use_latents:
            _add_latents(batch, [row.moments for row in rows])
        batch.prompt_embeds, batch.pooled = encoded.embeddings(batch.prompts)
        batch.encoders = encoded.encoders
    return batch


def _row(sample: Decoded, visit: int, transform: Transform, seed: int | None, *, flipped: bool = False) -> _Row:
    row = _Row(sample.key, _choose(sample.texts, sample.key, visit, seed), sample.meta)
    if sample.target is not None:
        try:
            row.target, references, scale = transform(sample.target, sample.references)
        except BadSample as error:
            msg = f"sample {sample.key}: {error}"
            raise BadSample(msg, error.fault.reason) from error
        row.reference = references[0] if references else None
        if flipped:
            row.target = row.target[:, ::-1]
            row.reference = None if row.reference is None else row.reference[:, ::-1]
        if scale > 1:
            sample.meta["upscale"] = scale
    return row


def _stack(kind: str, rows: list[_Row], visits: Sequence[int], size: tuple[int, int], *, pixels: bool = True) -> Batch:
    has_pixels = pixels and kind in _WITH_PIXELS
    has_references = has_pixels and kind == _WITH_REFERENCE
    return Batch(
        kind=kind,
        keys=[row.key for row in rows],
        visits=torch.tensor(visits, dtype=torch.int64),
        prompts=[row.prompt for row in rows],
        size=size,
        weight=torch.tensor([float(row.fault is None) for row in rows]),
        meta=[row.meta for row in rows],
        target_bytes=_to_bytes([row.target for row in rows], size) if has_pixels else None,
        reference_bytes=_to_bytes([row.reference for row in rows], size) if has_references else None,
        faults={number: row.fault for number, row in enumerate(rows) if row.fault is not None},
    )


def _add_latents(batch: Batch, moments: Sequence[list[Tensor]]) -> None:
    """Put latents into a batch, zeros where a sample is bad."""
    sound = next((row for row in moments if row), None)
    if sound is None:
        msg = f"all {len(batch)} samples of a batch are bad: {next(iter(batch.faults.values())).message}"
        raise DataError(msg)
    blank = [torch.zeros_like(one) for one in sound]
    roles = [torch.stack(role) for role in zip(*(row or blank for row in moments), strict=True)]
    batch.latents, batch.reference_latents = roles[0], roles[1] if len(roles) > 1 else None


def _choose(texts: list[str], key: str, visit: int, seed: int | None) -> str:
    if seed is None or len(texts) == 1:
        return texts[0]
    return texts[keyed_rng(seed, key, visit, "caption").integers(len(texts))]


def _to_bytes(images: Sequence[np.ndarray | None], size: tuple[int, int]) -> Tensor:
    """uint8 (H, W, 3) each -> uint8 (B, H, W, 3); zeros where there is none."""
    stacked = _empty(len(images), *size, 3)
    for row, image in zip(stacked.numpy(), images, strict=True):
        row[:] = 0 if image is None else image
    return stacked


def _empty(*shape: int) -> Tensor:
    """Return a uint8 tensor to fill; a worker's lies in the memory that it shares, or it would be copied there."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
