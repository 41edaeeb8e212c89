"""Write a data set of the samples that are wanted: by score, size, aspect ratio, licence, and by notes about them."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.facts import named_size, scores_of
from unipic2_data.images import picture_size
from unipic2_data.jobs import run_jobs, silent, tick
from unipic2_data.manifest import Manifest
from unipic2_data.notes import Notes, data_id
from unipic2_data.parts import Placed
from unipic2_data.rewriting import rewrite
from unipic2_data.sample import rebuild
from unipic2_data.scan import key_hash, scan_documents

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from unipic2_data.jobs import Progress
    from unipic2_data.parts import WriteReport
    from unipic2_data.sample import Sample
    from unipic2_data.scan import Scanned
    from unipic2_data.table import SampleTable

__all__ = ["Filter", "ScoreRule", "filter_data"]

_RULE = re.compile(r"\s*([\w .-]+?)\s*(>=|<=|>|<)\s*(-?[0-9.]+)\s*")
_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_KEY_LENGTH = 80


@dataclass(frozen=True)
class ScoreRule:
    """What a score must be: its name, a comparison, a number. Samples without the score are left out."""

    name: str
    comparison: str
    value: float

    @staticmethod
    def parse(text: str) -> ScoreRule:
        """Return the rule that a text such as "sc>=7" states.

        Raises:
            DataError: If it states none.
        """
        found = _RULE.fullmatch(text)
        try:
            return ScoreRule(found[1], found[2], float(found[3]))  # type: ignore[index]
        except (TypeError, ValueError) as error:
            msg = f"{text!r} is no rule about a score; expected for example 'sc>=7'."
            raise DataError(msg) from error


@dataclass(frozen=True)
class Filter:
    """What a sample must be to stay.

    Attributes:
        scores: Rules that all hold.
        min_side: Shorter side of the target, at least, in pixels; of samples without a target, of the first reference.
        max_aspect: Longer through shorter side, at most.
        licences: Names that the licence may have, or patterns such as "CC-BY-*"; samples without one are left out.
    """

    scores: tuple[ScoreRule, ...] = ()
    min_side: int | None = None
    max_aspect: float | None = None
    licences: tuple[str, ...] = ()

    def reason(self, sample: Sample) -> str | None:
        """Return why a sample is left out, or None if it stays."""
        scores = scores_of(sample.meta)
        for rule in self.scores:
            if rule.name not in scores:
                return f"no score {rule.name}"
            if not _OPERATORS[rule.comparison](scores[rule.name], rule.value):
                return f"score {rule.name} is not {rule.comparison} {rule.value:g}"
        if self.licences:
            licence = sample.meta.get("licence")
            if not isinstance(licence, str):
                return "no licence"
            if not any(fnmatch.fnmatchcase(licence, allowed) for allowed in self.licences):
                return f"licence {licence}"
        return self._size_reason(sample) if self.min_side or self.max_aspect else None

    def keep(self, table: SampleTable) -> tuple[np.ndarray, Counter[str]]:
        """Return which samples of a table stay, bool (N,), and how many are left out for each reason of `reason`.

        Samples whose size the table does not know stay, as no rule can be applied to them.
        """
        kept, reasons = np.ones(len(table), bool), Counter[str]()
        for reason, good in self._rules(table):
            lost = int((kept & ~good).sum())
            reasons.update({reason: lost} if lost else {})
            kept &= good
        return kept, reasons

    def _rules(self, table: SampleTable) -> Iterator[tuple[str, np.ndarray]]:
        """Yield reasons to leave samples out, and which samples stay."""
        for rule in self.scores:
            values = table.scores.get(rule.name, np.full(len(table), np.nan, np.float32))
            yield f"no score {rule.name}", ~np.isnan(values)
            yield (
                f"score {rule.name} is not {rule.comparison} {rule.value:g}",
                _OPERATORS[rule.comparison](values, rule.value),
            )
        if self.licences:
            yield "no licence", table.licence >= 0
            for code, licence in enumerate(table.licences):
                if not any(fnmatch.fnmatchcase(licence, allowed) for allowed in self.licences):
                    yield f"licence {licence}", table.licence != code
        if not (self.min_side or self.max_aspect):
            return
        shorter, longer = np.minimum(*table.sizes.T), np.maximum(*table.sizes.T)
        if self.min_side:
            yield f"shorter side is below {self.min_side} pixels", (shorter >= self.min_side) | (shorter == 0)
        if self.max_aspect:
            yield f"aspect ratio is above {self.max_aspect:g}", longer <= self.max_aspect * shorter.astype(np.float64)

    def _size_reason(self, sample: Sample) -> str | None:
        try:
            size = _size(sample)
        except DataError:
            return "picture is unreadable"
        if size is None:
            return None
        if self.min_side and min(size) < self.min_side:
            return f"shorter side is below {self.min_side} pixels"
        if self.max_aspect and max(size) / min(size) > self.max_aspect:
            return f"aspect ratio is above {self.max_aspect:g}"
        return None


def filter_data(
    sources: Sequence[Path],
    out: Path,
    wanted: Filter,
    *,
    drop: Sequence[Path] = (),
    notes: Sequence[Path] = (),
    texts: Literal["add", "replace"] = "add",
    workers: int = 1,
    progress: Progress = silent,
) -> WriteReport:
    """Write a data set of what is wanted from one or more; keys that several have are made different.

    Args:
        sources: The data sets.
        out: Folder to make; must not exist or be empty.
        wanted: What samples must be, after the notes were obeyed.
        drop: Files of notes about samples to leave out (duplicates, leaks); their ``reason`` is counted.
        notes: Files of notes whose fields are written into the samples: scores are added, texts see below, others
            replace what is there.
        texts: Whether captions and instructions of notes are added to those of a sample, or replace them.
        workers: Processes; the bytes do not depend on it.
        progress: Makes progress bars.

    Raises:
        DataError: If nothing is left, or a file cannot be read.
    """
    manifests = [Manifest.load(source) for source in sources]
    request = {
        "command": "filter",
        "filter": asdict(wanted),
        "drop": [file.name for file in drop],
        "notes": [file.name for file in notes],
        "texts": texts,
    }
    decide = _Decide(
        wanted,
        Notes(drop),
        Notes(notes),
        texts,
        [data_id(manifest) for manifest in manifests],
        _shared_keys(manifests, workers, progress) if len(manifests) > 1 else frozenset(),
    )
    return rewrite(manifests, out, request, decide, workers=workers, progress=progress)


@dataclass(frozen=True)
class _Decide:
    wanted: Filter
    drop: Notes
    notes: Notes
    texts: str
    ids: list[str]
    shared: frozenset[int]  # hashes of keys that several data sets have

    def __call__(self, source: int, shard: int, scanned: Scanned, sample: Sample) -> Placed | str:  # noqa: ARG002
        dropped = self.drop.of(self.ids[source], sample.key)
        if dropped:
            return str(dropped[0].get("reason", "dropped"))
        notes = self.notes.of(self.ids[source], sample.key)
        for note in notes:
            _obey(sample, note, self.texts)
        reason = self.wanted.reason(sample)
        if reason is not None:
            return reason
        key = sample.key
        if source and key_hash(key) in self.shared:
            suffix = f"-{self.ids[source][:8]}"
            key = key[: _KEY_LENGTH - len(suffix)] + suffix
        members = scanned.members
        if notes or key != sample.key:
            members = rebuild(members, sample, key)
        return Placed(scanned.split, sample.kind, members)


def _obey(sample: Sample, note: dict[str, Any], texts: str) -> None:
    """Write the fields of a note into a sample."""
    for name, value in note.items():
        if name in {"data", "key", "reason"}:
            continue
        if name == "scores":
            sample.meta["scores"] = scores_of(sample.meta) | scores_of(note)
        elif name in {"captions", "instruction"} and texts == "add":
            both = [*_as_list(sample.meta.get(name)), *_as_list(value)]
            sample.meta[name] = list(dict.fromkeys(both))
        else:
            sample.meta[name] = value


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _size(sample: Sample) -> tuple[int, int] | None:
    """Return height and width of the picture that counts, or None if there is none."""
    if size := named_size(sample.meta):
        return size
    references = sample.meta.get("reference_sizes")
    if sample.target is None and isinstance(references, list) and references and (size := named_size(references[0])):
        return size
    image = sample.target or (sample.references[0] if sample.references else None)
    return picture_size(image.data) if image else None


def _shared_keys(manifests: list[Manifest], workers: int, progress: Progress) -> frozenset[int]:
    """Return the hashes of keys that more than one sample has."""
    jobs = [(source, shard) for source, manifest in enumerate(manifests) for shard in range(len(manifest.shards))]
    with progress("keys", sum(shard.samples for manifest in manifests for shard in manifest.shards)) as bar:
        found = [hashes for _, hashes in run_jobs(partial(_keys, manifests), jobs, workers, bar.update)]
    values, counts = np.unique(np.concatenate(found), return_counts=True)
    return frozenset(values[counts > 1].tolist())


def _keys(manifests: list[Manifest], job: tuple[int, int]) -> np.ndarray:
    source, shard = job
    hashes = []
    for found in scan_documents(manifests[source], manifests[source].shards[shard]):
        tick()
        if isinstance(found, tuple):  # the others are counted when they are to be written
            hashes.append(key_hash(found[0]))
    return np.array(hashes, np.uint64)
