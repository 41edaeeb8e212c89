"""Workflow ``encode``: run a recipe's frozen encoders over its data once, into the cache that ``data.cache`` names.

Behind a VLM that is the VAE alone: what the VLM makes of a prompt changes with the queries that are trained.
What is encoded, with what and where to is all in the recipe that trains from it. Any number of processes may take part
(torchrun and Slurm say how many there are); they share nothing but the folder, so a killed run goes on when it is
started again, with as many as one likes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from jsonargparse import ArgumentParser

from unipic2_data.buckets import BucketSizes
from unipic2_data.cache.build_latents import LatentBuild
from unipic2_data.cache.build_text import TextBuild
from unipic2_data.cache.portion import Portion
from unipic2_data.cache.read import CacheConfig
from unipic2_data.errors import DataError
from unipic2_data.jobs import silent
from unipic2_dit.checkpoint import read_config, resolve_folder
from unipic2_dit.vae import spatial_factor
from unipic2_train import encoding, home, runner
from unipic2_train.cli import STAGES, _layered
from unipic2_train.datamodule import ShardData
from unipic2_train.pictures import frozen_vae
from unipic2_train.system import FrozenParts
from unipic2_unified.variants import sees

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from jsonargparse import Namespace

    from unipic2_data.jobs import Bar

__all__ = ["Part", "encode", "run"]

_STAGE, _BEHIND_VLM = "pretrain", "joint"  # every stage that trains on latents has the keys of one of these


@dataclass(frozen=True)
class Part:
    """Which process of how many this is, and the number of its device."""

    rank: int = 0
    world_size: int = 1
    device: int = 0

    @staticmethod
    def of_environment() -> Part:
        """Read what torchrun or Slurm say."""
        for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")):
            if all(name in os.environ for name in names):
                return Part(*(int(os.environ[name]) for name in names))
        return Part()


def run(arguments: list[str]) -> None:
    """Run ``lightning run encode``; see ``usage``."""
    parser = argparse.ArgumentParser(prog="lightning run encode", add_help=False, allow_abbrev=False)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--sizes_only", action="store_true")
    own, recipe = parser.parse_known_args(arguments)  # the rest is the recipe's, and checked against it
    runner._quiet()
    words = _layered(_STAGE, recipe)
    behind_vlm = "metaquery" in (yaml.safe_load(words[1]).get("model") or {})
    config = runner.parse(STAGES[_BEHIND_VLM if behind_vlm else _STAGE], words)
    encode(config, Part.of_environment(), own.batch_size, sizes_only=own.sizes_only)


def encode(config: Namespace, part: Part, batch_size: int, *, sizes_only: bool = False) -> None:
    """Encode one process's share of a recipe's data.

    Args:
        config: The recipe, parsed.
        part: Which process this is.
        batch_size: Pictures or prompts encoded at once.
        sizes_only: Say how much would be written, and stop.

    Raises:
        DataError: No cache in the recipe, no room for it, a cache of other encoders in its place, or a recipe whose
            VLM reads what would be encoded.
    """
    if config.data.cache is None:
        msg = "the recipe names no cache to write: add --data.cache.path DIR"
        raise DataError(msg)
    cache = CacheConfig(**config.data.cache.as_dict())
    checkpoint = _checkpoint(config)
    for reference in sorted(set(home.references([config.data.as_dict(), checkpoint]))):
        home.provide(reference)
    builds = _builds(config, cache, part)
    folder = Path(cache.path).expanduser()
    if part.rank == 0:
        _say_sizes(builds, folder)
    if sizes_only:
        return
    with _autocast(config):
        for build in builds:
            report = build.run(part.rank, part.world_size, batch_size, _bar if part.rank == 0 else silent)
            print(f"rank {part.rank} of {part.world_size}: {report}")  # noqa: T201
    print(f"{folder}: {'complete' if all(build.is_complete for build in builds) else 'waits for other ranks'}")  # noqa: T201


def _builds(config: Namespace, cache: CacheConfig, part: Part) -> list[LatentBuild | TextBuild]:
    """Return what is to be made, encoders loaded."""
    parser = ArgumentParser()
    parser.add_class_arguments(ShardData, "data")
    data = parser.instantiate_classes(parser.parse_object({"data": config.data.as_dict()})).data
    data.setup("fit")
    if "metaquery" in config.model:
        _refuse_what_the_vlm_reads(config, cache, data.kinds)
    source, device = resolve_folder(home.path(_checkpoint(config))), _device(config, part)
    vae = frozen_vae(source, device)
    multiple = spatial_factor(vae) * read_config(source, "transformer")["patch_size"]
    pool = data.training_pool(None if data.buckets is None else BucketSizes(data.buckets, multiple))
    portions = [one for one in Portion.of(pool, (data.size, data.size)) if one.kind in data.kinds]
    folder = Path(cache.path).expanduser()
    builds: list[LatentBuild | TextBuild] = []
    if cache.latents is not None:
        encoder = encoding.picture_encoder(vae)
        builds.append(LatentBuild(folder / "latents", portions, encoder, cache.latents, flips=data.flip > 0))
    if cache.text is not None:
        text = encoding.text_encoder(FrozenParts(source, device))
        builds.append(TextBuild(folder / "text", portions, text, cache.text))
    return builds


def _checkpoint(config: Namespace) -> str:
    """Return what the recipe starts from, whose VAE and text encoders these are."""
    model = config.model.metaquery if "metaquery" in config.model else config.model.kontext
    return str(model.checkpoint)


def _refuse_what_the_vlm_reads(config: Namespace, cache: CacheConfig, kinds: Sequence[str]) -> None:
    """Refuse to encode what training behind a VLM could not use.

    Raises:
        DataError: Prompts, or edits whose pictures the VLM sees.
    """
    if cache.text is not None:
        msg = (
            f"data.cache.text is {cache.text}, but in this recipe a VLM reads the prompts for queries that are "
            "trained, so what it makes of them changes with every step: set --data.cache.text null, and the pictures "
            "alone are encoded"
        )
        raise DataError(msg)
    if "edit" in kinds and sees("vlm", config.model.reference):
        msg = (
            f"model.reference is {config.model.reference}: the VLM reads the pictures of edits at every step, and a "
            "cache of latents has none. Encode and train without edits (--data.tasks '{t2i: 1}'), with edits that the "
            "DiT alone sees (--model.reference dit), or without data.cache"
        )
        raise DataError(msg)


def _say_sizes(builds: list[LatentBuild | TextBuild], folder: Path) -> None:
    """Print what the cache will take, and refuse to begin what does not fit."""
    needed = 0.0
    for build in builds:
        count, size = build.estimate()
        needed += size
        print(f"{build.what}: {count:,} records of about {_readable(size / count)}, {_readable(size)} in all")  # noqa: T201
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    print(f"{_readable(needed)} in {folder}, where {_readable(free)} are free", flush=True)  # noqa: T201
    have = sum(file.stat().st_size for file in folder.rglob("*.bin"))
    if needed - have > free:
        msg = (
            f"{folder} has no room for the cache: {_readable(needed - have)} are needed. Cache less "
            "(data.cache.text: null or float8), or name another disk."
        )
        raise DataError(msg)


def _device(config: Namespace, part: Part) -> torch.device:
    if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", part.device)


def _autocast(config: Namespace) -> AbstractContextManager[Any]:
    """Return the precision that encoders would have in training: under bf16-mixed they run in bfloat16."""
    kind = "cpu" if config.trainer.accelerator == "cpu" or not torch.cuda.is_available() else "cuda"
    mixed = config.trainer.precision == "bf16-mixed"
    return torch.autocast(kind, torch.bfloat16, enabled=mixed)


def _bar(what: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit=f" {what}", disable=None, file=sys.stderr)


def _readable(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:,.4g} TiB"
