"""Edits of a model with a judge's scores: what an edit reward learns from.

Each source and instruction gets a group of edits. A good model fails seldom, and equal edits teach no order, so the
edits of a group are made by several makers in turn: checkpoints, numbers of steps and scales of guidance. An edit
depends on its sample's key, its number in the group, its maker and the seed, and on nothing else.

What is written is a canonical data set of kind ``edit``, the results in the place of targets: ``scores.judge`` holds
the score (absent where the judge failed) and ``made_by`` the maker. Each shard holds whole groups and appears when it
is complete, with its scores beside it as an array; the manifest comes last. So a stopped command goes on when it is
given again, and processes share the work.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor

from unipic2_data.images import encode_png
from unipic2_data.loader import SampleStore, make_batch
from unipic2_data.manifest import Manifest, Shard, ShardWriter, package_versions
from unipic2_data.randomness import keyed_hash, keyed_rng
from unipic2_data.sample import Image, Sample
from unipic2_data.transform import Transform
from unipic2_train.edit_reward import COMMAND, KIND, SCORE
from unipic2_train.rewards.base import RewardRequest, scores_of
from unipic2_unified.requests import Request

if TYPE_CHECKING:
    from unipic2_data.batch import Batch
    from unipic2_train.rewards.base import Reward
    from unipic2_unified import UniPic2

__all__ = ["Labels", "Maker", "Part", "begin", "finish", "label", "parts_of"]

RECORD = "label-edits.json"
GROUPS = 64  # of a shard
MAX_FAILED = 0.1
"""Share of a shard's scores that the judge may fail to give."""
LONGEST_KEY = 76


@dataclass(frozen=True)
class Maker:
    """How edits are made."""

    model: int
    """Number of the checkpoint."""
    steps: int
    """Denoising steps."""
    guidance: float
    """Scale of guidance."""


@dataclass(frozen=True)
class Labels:
    """What is made."""

    out: Path
    """Folder of the new data set."""
    source: Manifest
    """Sources and instructions."""
    size: int
    """Edge of the pictures, in pixels."""
    per_group: int
    """Edits of a source and instruction."""
    seed: int
    """Seed of choice, makers and noise."""
    makers: tuple[Maker, ...]
    """They take turns within a group."""


@dataclass(frozen=True)
class Part:
    """One shard."""

    split: str
    number: int
    rows: tuple[int, ...]
    """Numbers of the samples, a group each."""

    @property
    def path(self) -> str:
        """Its tar, relative to the folder."""
        return f"{self.split}/{KIND}-{self.number:05d}.tar"

    def scores(self, out: Path) -> Path:
        """Return the file with its scores, float64 (groups, edits of each)."""
        return (out / self.path).with_suffix(".scores.npy")


def parts_of(source: Manifest, splits: dict[str, int], seed: int) -> list[Part]:
    """Return the shards to make: so many groups of each split, drawn by the seed.

    Raises:
        ValueError: A split has fewer edits.
    """
    parts = []
    for split, groups in splits.items():
        available = source.counts.get(split, {}).get(KIND, 0)
        if groups > available:
            msg = f"{source.root} has {available} edits in its {split} split, but {groups} are asked for: ask for fewer"
            raise ValueError(msg)
        rows = keyed_rng(seed, split, purpose=COMMAND).permutation(available)[:groups].tolist()
        pieces = [rows[start : start + GROUPS] for start in range(0, groups, GROUPS)]
        parts += [Part(split, number, tuple(piece)) for number, piece in enumerate(pieces)]
    return parts


def begin(out: Path, facts: dict[str, Any]) -> None:
    """Note what a new folder is for, or check that it may be gone on with.

    Raises:
        ValueError: It holds something else, scores of another judge for instance; what differs is named.
    """
    file, facts = out / RECORD, json.loads(json.dumps(facts))
    out.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        if strange := sorted(path.name for path in out.iterdir() if not path.name.startswith(".")):
            msg = f"{out} holds {strange[0]}, which `{COMMAND}` has not made: name another --out"
            raise ValueError(msg)
        partial = out / f".{RECORD}.{os.getpid()}"
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        partial.replace(file)
    known = json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key in {**known, **facts} if known.get(key) != facts.get(key)]
    if changed:
        shown = "; ".join(f"{key}: {known.get(key)!r} then, {facts.get(key)!r} now" for key in changed)
        msg = (
            f"{out} holds edits that were made or judged otherwise ({shown}). Name another --out, or go on as it began"
        )
        raise ValueError(msg)


def label(labels: Labels, part: Part, models: Sequence[UniPic2], judge: Reward, batch_size: int) -> Iterator[int]:
    """Make the edits of a shard, have them scored and write it; yields how many edits have been made more.

    Raises:
        ValueError: The judge failed too often; the shard is not written.
    """
    store = SampleStore(labels.source, part.split, [KIND])
    samples = [store.sample(KIND, row) for row in part.rows]
    batch = make_batch(samples, [0] * len(samples), Transform((labels.size, labels.size)))
    assert batch.reference_bytes is not None
    makers = [_makers(labels, key) for key in batch.keys]
    edited = torch.empty(len(batch) * labels.per_group, labels.size, labels.size, 3, dtype=torch.uint8)
    for model, places in _by_model(makers, labels.per_group).items():
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            requests = [_request(labels, batch, makers, *divmod(place, labels.per_group)) for place in chosen]
            for place, picture in zip(chosen, models[model].run(requests), strict=True):
                edited[place] = torch.from_numpy(np.array(picture))
            yield len(chosen)
    scores = scores_of(COMMAND, judge, _shown(batch, edited, labels.per_group))
    failed = float(scores.isnan().double().mean())
    if failed > MAX_FAILED:
        msg = (
            f"the judge failed on {failed:.0%} of the {len(scores)} edits of {part.path}, which is not written; what "
            "is finished stays: see to the judge and give the command again"
        )
        raise ValueError(msg)
    _write(labels, part, batch, edited, scores.view(len(batch), labels.per_group), makers)


def finish(out: Path, parts: Sequence[Part], facts: dict[str, Any], per_group: int) -> Manifest:
    """Write the manifest of the shards, which are all there.

    Raises:
        ValueError: All edits of the training split have the same score.
    """
    known = np.concatenate([np.load(part.scores(out)).ravel() for part in parts if part.split == "train"])
    known = known[np.isfinite(known)]
    if known.std() == 0:
        msg = (
            f"all {len(known)} edits got the score {known[0]:g}: vary --checkpoint, --steps or --guidance in another "
            "--out, or ask another judge"
        )
        raise ValueError(msg)
    scores = {"mean": float(known.mean()), "std": float(known.std())}
    shards = [_shard(out, part, len(part.rows) * per_group) for part in parts]
    manifest = Manifest(out, shards, {**facts, "scores": scores}, package_versions("unipic2-train"))
    manifest.save()
    return manifest


def _makers(labels: Labels, key: str) -> list[Maker]:
    """Return the maker of each edit of a group: in turn, beginning with any."""
    first = int(keyed_rng(labels.seed, key, purpose=f"{COMMAND}-maker").integers(len(labels.makers)))
    return [labels.makers[(first + number) % len(labels.makers)] for number in range(labels.per_group)]


def _by_model(makers: Sequence[Sequence[Maker]], per_group: int) -> dict[int, list[int]]:
    """Return the places of each checkpoint's edits; those with the same steps are neighbours, to end together."""
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for group, of_group in enumerate(makers):
        for number, maker in enumerate(of_group):
            places[maker.model].append((maker.steps, group * per_group + number))
    return {model: [place for _, place in sorted(found)] for model, found in sorted(places.items())}


def _request(labels: Labels, batch: Batch, makers: Sequence[Sequence[Maker]], group: int, number: int) -> Request:
    assert batch.reference_bytes is not None
    maker, key = makers[group][number], batch.keys[group]
    return Request(
        batch.prompts[group],
        Picture.fromarray(batch.reference_bytes[group].numpy()),
        size=(labels.size, labels.size),
        steps=maker.steps,
        guidance=maker.guidance,
        seed=int.from_bytes(keyed_hash(labels.seed, key, number, COMMAND)[:8], "little") >> 1,
    )


def _shown(batch: Batch, edited: Tensor, per_group: int) -> RewardRequest:
    """Return what the judge is shown of all edits."""
    places = torch.arange(len(batch)).repeat_interleave(per_group)
    assert batch.reference_bytes is not None
    return RewardRequest(
        kind=KIND,
        pictures=edited,
        prompts=[batch.prompts[place] for place in places],
        groups=[batch.keys[place] for place in places],
        meta=[batch.meta[place] for place in places],
        sources=batch.reference_bytes[places],
        targets=None if batch.target_bytes is None else batch.target_bytes[places],
    )


def _write(
    labels: Labels,
    part: Part,
    batch: Batch,
    edited: Tensor,
    scores: Tensor,
    makers: Sequence[Sequence[Maker]],
) -> None:
    """Write a shard; its tar is what tells that it is complete, so it comes last."""
    assert batch.reference_bytes is not None
    with ShardWriter(labels.out, part.path, part.split, KIND) as writer:
        for group, key in enumerate(batch.keys):
            source = Image(encode_png(batch.reference_bytes[group].numpy()))
            for number in range(labels.per_group):
                score = float(scores[group, number])
                meta = {name: value for name, value in batch.meta[group].items() if name not in ("scores", "caption")}
                meta |= {
                    "instruction": batch.prompts[group],
                    "scores": {} if math.isnan(score) else {SCORE: score},
                    "made_by": vars(makers[group][number]),
                }
                target = Image(encode_png(edited[group * labels.per_group + number].numpy()))
                short = key if len(key) <= LONGEST_KEY else keyed_hash(key).hex()
                writer.add(Sample(f"{short}-{number:03d}", KIND, meta, target, [source]))
        file = part.scores(labels.out)
        partial = file.with_name(f".{file.name}.partial")
        with partial.open("wb") as opened:
            np.save(opened, scores.numpy())
        partial.replace(file)


def _shard(out: Path, part: Part, samples: int) -> Shard:
    """Return what the manifest says of a finished shard, whichever process and day it is from."""
    tar = out / part.path
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    index = tar.with_suffix(".idx.npy").relative_to(out).as_posix()
    return Shard(part.path, index, part.split, KIND, samples, tar.stat().st_size, digest)
