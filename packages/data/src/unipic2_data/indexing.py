"""Make a data set of tars as they are, without copying a byte: an index beside each tar, and a manifest.

The tars hold canonical samples without index (written by someone else's tools), or pictures with texts
(``KEY.jpg`` + ``KEY.txt``, see `unipic2_data.sample`). Samples that cannot be used are left out of the index.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import asdict
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.adapters.record import Skipped
from unipic2_data.errors import DataError
from unipic2_data.jobs import run_jobs, silent, tick
from unipic2_data.manifest import Manifest, Shard
from unipic2_data.parts import WriteReport, save_data
from unipic2_data.randomness import keyed_hash
from unipic2_data.sample import sample_from_tar, split_name
from unipic2_data.scan import key_hash
from unipic2_data.tars import find_tars, tar_members
from unipic2_data.verify import problems
from unipic2_data.workspace import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from unipic2_data.jobs import Progress
    from unipic2_data.sample import Sample
    from unipic2_data.tars import TarMember

__all__ = ["index_folder"]

_SPLITS = ("train", "validation", "test", "heldout")
_WORK = ".index"  # results of each tar, until all are done


def index_folder(folder: Path, *, split: str = "train", workers: int = 1, progress: Progress = silent) -> WriteReport:
    """Write an index beside every tar in a folder, and the manifest.

    Killed, it goes on with the tars that are not done when it is called again.

    Args:
        folder: The folder with the tars, in any depth. Tars below a folder named train, validation, test or heldout
            belong to that split.
        split: Split of the other tars.
        workers: Processes.
        progress: Makes progress bars.

    Raises:
        DataError: If there are no tars, or no usable samples, or keys that appear in several places.
    """
    if (folder / "manifest.json").exists():
        msg = f"{folder} is a data set already; remove its manifest.json to index it anew."
        raise DataError(msg)
    tars = find_tars(folder)
    pieces = [files[0].name for files in tars if len(files) > 1]
    if pieces:
        msg = f"tars in pieces cannot be read in place ({', '.join(pieces[:3])}, ...): join them, or import them."
        raise DataError(msg)
    work = folder / _WORK
    work.mkdir(exist_ok=True)
    files = [tar for (tar,) in tars]
    todo = [tar for tar in files if _result(work, folder, tar) is None]
    with progress("index", None) as bar:
        for tar, found in run_jobs(partial(_index_tar, folder, split), todo, workers, bar.update):
            write_json(_result_file(work, folder, tar), found)
    results = [result for tar in files if (result := _result(work, folder, tar)) is not None]
    _refuse_duplicates(folder, results)
    shards = [Shard(**shard) for result in results for shard in result["shards"]]
    skipped = [Skipped(*one) for result in results for one in result["skipped"]]
    if not shards:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in Counter(one.reason for one in skipped).items())
        msg = f"no usable samples in the tars of {folder}: {reasons or 'they are empty'}."
        raise DataError(msg)
    save_data(folder, shards, skipped, {"command": "index", "source": folder.name, "split": split}, workers=workers)
    shutil.rmtree(work)
    return WriteReport(Manifest.load(folder), skipped)


def _index_tar(folder: Path, split: str, tar: Path) -> dict[str, Any]:
    """Write the indexes of a tar, one for each kind, and return its shards, hashes of keys, and what was skipped."""
    path = tar.relative_to(folder)
    offsets: dict[str, list[tuple[int, int]]] = {}
    keys: list[int] = []
    skipped: list[Skipped] = []
    for name, found, place in _samples(tar, path.as_posix()):
        if isinstance(found, str):
            skipped.append(Skipped(name, found))
            continue
        tick()
        if problem := next(problems(found), None):
            skipped.append(Skipped(name, problem.partition(":")[0]))
            continue
        offsets.setdefault(found.kind, []).append(place)
        keys.append(key_hash(found.key))
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = tar.stat().st_size
    split = path.parts[0] if path.parts[0] in _SPLITS and len(path.parts) > 1 else split
    shards = []
    for kind, table in offsets.items():
        index = tar.with_suffix(".idx.npy" if len(offsets) == 1 else f".{kind}.idx.npy")
        temporary = index.with_name(f".{index.name}.partial")
        with temporary.open("wb") as file:
            np.save(file, np.array(table, np.int64))
        temporary.replace(index)
        place_of_index = index.relative_to(folder).as_posix()
        shards.append(asdict(Shard(path.as_posix(), place_of_index, split, kind, len(table), size, digest)))
    return {"size": size, "shards": shards, "keys": keys, "skipped": [(one.name, one.reason) for one in skipped]}


def _samples(tar: Path, name: str) -> Iterator[tuple[str, Sample | str, tuple[int, int]]]:
    """Yield every run of members with the same key: its name, the sample or what is wrong, first byte and length."""
    seen: set[str] = set()
    with tar.open("rb") as file:
        members: list[TarMember] = []
        damage = None
        try:
            for member in tar_members(file, name):
                members.append(member)  # noqa: PERF402 - what comes before the damage is kept
        except DataError as error:
            damage = error
        for key, run in groupby(members, key=lambda member: (split_name(member.name) or (member.name,))[0]):
            ones = list(run)
            start, length = ones[0].header, ones[-1].stop - ones[0].header
            where = f"{name}/{key}"
            if key in seen:
                yield where, "members of the sample are apart", (start, length)
                continue
            seen.add(key)
            file.seek(start)
            try:
                yield where, sample_from_tar(file.read(length), where), (start, length)
            except DataError as error:
                reason = "cut off" if "cut off" in str(error) else "no readable sample"
                yield where, reason, (start, length)
        if damage is not None:
            yield f"{name} ({str(damage).rpartition(': ')[2]})", "tar is damaged", (0, 0)


def _refuse_duplicates(folder: Path, results: list[dict[str, Any]]) -> None:
    keys = np.array([key for result in results for key in result["keys"]], np.uint64)
    repeated = len(keys) - len(np.unique(keys))
    if repeated:
        msg = (
            f"{repeated} samples in the tars of {folder} have a key that another one has, in another tar perhaps. "
            "Keys must differ: import the tars (--format tar) instead, which gives each sample its own key."
        )
        raise DataError(msg)


def _result_file(work: Path, folder: Path, tar: Path) -> Path:
    return work / f"{keyed_hash(tar.relative_to(folder).as_posix()).hex()}.json"


def _result(work: Path, folder: Path, tar: Path) -> dict[str, Any] | None:
    """Return what was found in a tar before, if the tar has not changed its size since."""
    result = read_json(_result_file(work, folder, tar))
    return result if result and result["size"] == tar.stat().st_size else None
