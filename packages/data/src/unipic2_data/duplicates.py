"""Find samples whose pictures are nearly those of another sample, within data sets and across them.

A picture is described by the signs of 128 low frequencies of its luminance (a perceptual hash: scaling and compression
change few of them) and by its colours on a grid of 4 x 4. Two pictures are near if at most `distance` signs differ, and
no colour of the grid by more than 12 of 255. Two samples are duplicates if all their pictures are near, one by one,
and, for edits and questions, if their texts are the same but for case and punctuation; prompts, if their texts are. Of
duplicates the first stays: the order of the data sets is their priority.

Codes that differ in at most 7 of 128 bits agree in one of 8 pieces of 16 bits, so sorting by pieces finds every pair.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.images import decode_small
from unipic2_data.jobs import run_jobs, silent, tick
from unipic2_data.manifest import Manifest
from unipic2_data.notes import data_id
from unipic2_data.randomness import keyed_hash
from unipic2_data.sample import Sample, texts_of
from unipic2_data.scan import scan
from unipic2_data.texts import normalised
from unipic2_data.workspace import require_same_request, workspace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unipic2_data.jobs import Progress

__all__ = ["find_duplicates", "picture_code"]

_SIDE, _BITS, _PIECES, _GRID = 32, 128, 8, 4
_LARGEST_DISTANCE = _PIECES - 1
_TOLERANCE = 12  # of a colour of the grid
_COMPARISONS = 2**22  # at once
_MIDDLE = (np.arange(_SIDE) + 0.5) / _SIDE
_COSINES = np.cos(np.pi * np.arange(_SIDE)[:, None] * _MIDDLE)  # (frequency, place) of a cosine transform
_LOW = np.argsort(np.add.outer(np.arange(_SIDE) ** 2, np.arange(_SIDE) ** 2).ravel(), kind="stable")[1 : _BITS + 1]


@dataclass
class _Described:
    """Samples described. N samples, P pictures.

    Attributes:
        shard: Number of the shard, (N,).
        number: Number in the shard, (N,).
        text: Hash of kind and, if it counts, text, (N,).
        pictures: How many a sample has, (N,).
        codes: Signs of low frequencies, packed, uint8 (P, 16).
        colours: Grid of colours, uint8 (P, 48).
    """

    shard: np.ndarray
    number: np.ndarray
    text: np.ndarray
    pictures: np.ndarray
    codes: np.ndarray
    colours: np.ndarray

    @staticmethod
    def join(parts: Sequence[_Described]) -> _Described:
        return _Described(*(np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])))


def find_duplicates(
    sources: Sequence[Path], out: Path, *, distance: int = 4, workers: int = 1, progress: Progress = silent
) -> dict[str, int]:
    """Write a note about every sample that nearly repeats an earlier one; killed, it goes on when it is called again.

    Args:
        sources: Data sets, the one whose samples stay first.
        out: File of notes to make: key, ``of`` (key of the sample that stays), ``of_data``, ``distance``.
        distance: Signs of 128 that may differ, at most 7.
        workers: Processes.
        progress: Makes progress bars.

    Returns:
        Duplicates by the data set that they are in, by its folder's name.

    Raises:
        DataError: If the request makes no sense, or a data set cannot be read.
    """
    if not 0 <= distance <= _LARGEST_DISTANCE:
        msg = f"distance must be between 0 and {_LARGEST_DISTANCE}, got {distance}."
        raise DataError(msg)
    manifests = [Manifest.load(source) for source in sources]
    jobs = [(source, shard) for source, manifest in enumerate(manifests) for shard in range(len(manifest.shards))]
    sizes = [manifests[source].shards[shard].samples for source, shard in jobs]
    with workspace(out, "duplicates") as work:
        require_same_request(work, {"data": [data_id(manifest) for manifest in manifests]})
        files = [work / f"{number:06d}.npz" for number in range(len(jobs))]
        todo = [(number, *job) for number, job in enumerate(jobs) if not files[number].is_file()]
        with progress("duplicates", sum(sizes), sum(sizes) - sum(sizes[number] for number, *_ in todo)) as bar:
            for (number, *_), part in run_jobs(partial(_describe, manifests), todo, workers, bar.update):
                _save(part, files[number])
        described = _Described.join([_Described(**np.load(file)) for file in files])
        search = _Search(described, distance)
        search.run()
        notes = _notes(manifests, jobs, described, search)
        lines = [json.dumps(note, ensure_ascii=False) + "\n" for note in notes]
        (work / "data").write_text("".join(lines), encoding="utf-8")
    counts = dict.fromkeys((manifest.root.name for manifest in manifests), 0)
    ids = {data_id(manifest): manifest.root.name for manifest in manifests}
    for note in notes:
        counts[ids[note["data"]]] += 1
    return counts


def picture_code(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return what a picture looks like: signs of 128 low frequencies, uint8 (16,), and colours of a grid, uint8 (48,).

    Raises:
        DataError: If it is unreadable.
    """
    from PIL import Image

    picture = Image.fromarray(decode_small(data, 4 * _SIDE))
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    light = np.asarray(small.convert("L"), np.float64)
    low = (_COSINES @ light @ _COSINES.T).ravel()[_LOW].round(3)  # in flat pictures, rounding errors are no signs
    grid = small.resize((_GRID, _GRID), Image.Resampling.BOX)
    return np.packbits(low > np.median(low)), np.asarray(grid, np.uint8).ravel()


def _describe(manifests: list[Manifest], job: tuple[int, int, int]) -> _Described:
    number, source, shard = job
    rows, codes, colours = [], [], []
    for scanned in scan(manifests[source], manifests[source].shards[shard]):
        tick()
        sample = scanned.sample
        if not isinstance(sample, Sample):
            continue
        try:
            images = ([sample.target] if sample.target else []) + sample.references
            described = [picture_code(image.data) for image in images]
            text = texts_of(sample.kind, sample.meta, sample.key) if sample.kind != "t2i" else []
        except DataError:
            continue  # a matter of `unipic2-data verify`
        hashed = keyed_hash(sample.kind, *(normalised(one) for one in text), str(sample.meta.get("answer", "")))
        rows.append((number, scanned.number, int.from_bytes(hashed[:8], "big"), len(images)))
        codes += [code for code, _ in described]
        colours += [colour for _, colour in described]
    shards, numbers, texts, counts = zip(*rows, strict=True) if rows else ((), (), (), ())
    return _Described(
        np.array(shards, np.int32),
        np.array(numbers, np.int32),
        np.array(texts, np.uint64),
        np.array(counts, np.int32),
        np.array(codes, np.uint8).reshape(-1, _BITS // 8),
        np.array(colours, np.uint8).reshape(-1, 3 * _GRID * _GRID),
    )


def _save(part: _Described, file: Path) -> None:
    temporary = file.with_suffix(".partial")
    with temporary.open("wb") as opened:
        np.savez(opened, **vars(part))
    temporary.replace(file)


class _Search:
    """Finds of each sample the one that it repeats.

    Attributes:
        of: Number of the sample that each one repeats, its own if it stays, (N,).
        differences: Signs in which it differs from the one that it was found to repeat, (N,).
    """

    def __init__(self, described: _Described, distance: int) -> None:
        self._described, self._distance = described, distance
        self._words = described.codes.view(np.uint64)
        self._first = np.cumsum([0, *described.pictures])[:-1]  # picture of each sample
        self.of = np.arange(len(described.number))
        self.differences = np.zeros(len(self.of), np.int64)

    def run(self) -> None:
        """Look at all pairs that can be near."""
        pictured = np.flatnonzero(self._described.pictures > 0)
        leads = self._words[self._first[pictured]]
        for piece in leads.view(np.uint16).T:
            order = np.argsort(piece, kind="stable")
            for group in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
                if len(group) > 1:
                    self._compare(pictured[group], leads[group])
        wordless = np.flatnonzero(self._described.pictures == 0)
        _, places, inverse = np.unique(self._described.text[wordless], return_index=True, return_inverse=True)
        self.of[wordless] = wordless[places[inverse]]
        while (self.of[self.of] != self.of).any():  # what repeats a sample that repeats another one
            self.of = self.of[self.of]

    def _compare(self, group: np.ndarray, leads: np.ndarray) -> None:
        """Compare all samples of a group, by their first pictures first."""
        rows = max(_COMPARISONS // len(group), 1)
        for start in range(0, len(group), rows):
            differences = np.bitwise_count(leads[start : start + rows, None] ^ leads[None]).sum(-1)
            near = differences <= self._distance
            for row in np.flatnonzero(near.sum(1) > 1).tolist():
                one, others = int(group[start + row]), group[near[row]]
                if self.of[one] == one:
                    self._mark(one, others[(others > one) & (self.of[others] == others)])

    def _mark(self, one: int, others: np.ndarray) -> None:
        """Mark those of some later samples that repeat one."""
        found = self._described
        alike = (found.pictures[others] == found.pictures[one]) & (found.text[others] == found.text[one])
        others = others[alike]
        worst = np.zeros(len(others), np.int64)
        for picture in range(int(found.pictures[one])):
            here, there = self._first[one] + picture, self._first[others] + picture
            worst = np.maximum(worst, np.bitwise_count(self._words[there] ^ self._words[here]).sum(-1, np.int64))
            apart = np.abs(found.colours[there].astype(np.int16) - found.colours[here]).max(-1, initial=0)
            worst[apart > _TOLERANCE] = _BITS
        near = worst <= self._distance
        self.of[others[near]], self.differences[others[near]] = one, worst[near]


def _notes(
    manifests: list[Manifest], jobs: list[tuple[int, int]], described: _Described, search: _Search
) -> list[dict[str, Any]]:
    """Return a note about each sample that repeats another one."""
    of = search.of
    repeats = np.flatnonzero(of != np.arange(len(of)))
    wanted: dict[int, set[int]] = {}
    for one in {*repeats.tolist(), *of[repeats].tolist()}:
        wanted.setdefault(int(described.shard[one]), set()).add(int(described.number[one]))
    keys = {}
    for job, numbers in wanted.items():
        source, shard = jobs[job]
        for scanned in scan(manifests[source], manifests[source].shards[shard], numbers):
            assert isinstance(scanned.sample, Sample)
            keys[job, scanned.number] = data_id(manifests[source]), scanned.sample.key
    notes = []
    for one in repeats.tolist():
        data, key = keys[int(described.shard[one]), int(described.number[one])]
        of_data, of_key = keys[int(described.shard[of[one]]), int(described.number[of[one]])]
        note = {"data": data, "key": key, "reason": "near duplicate", "of": of_key, "of_data": of_data}
        notes.append(note | {"distance": int(search.differences[one])})
    return notes
