"""Making a suite's files with a model: this process's share, in batches of one size, each file when it is whole.

A picture's noise is drawn by a generator of its own, so it depends on its key and the run's seed and not on its batch,
the number of processes or what was made before. (A kernel that computes another number of rows may round otherwise.)
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from unipic2_dit import vae
from unipic2_evals import shapesbench
from unipic2_train.benchmarks.suite import Suite, Work, picture_seed

if TYPE_CHECKING:
    from unipic2_unified import Request, UniPic2

__all__ = ["SamplerOptions", "make_suite", "reconstruct", "share"]

PARTIAL = ".partial"
"""Folder below the output folder for files that are being written."""
WAITING = 64
"""Sources of sizes that fill no batch, at most, that are held in memory."""


@dataclass(frozen=True)
class SamplerOptions:
    """How pictures are sampled."""

    steps: int = 50
    guidance: float = 3.5
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    seed: int = 0
    batch_size: int = 8


Loaded = tuple[Work, Image.Image | None]


def share(works: Sequence[Work], rank: int, world_size: int) -> list[Work]:
    """Return the works that a process makes: every ``world_size``-th."""
    return [work for index, work in enumerate(works) if index % world_size == rank]


def make_suite(
    model: UniPic2,
    suite: Suite,
    out: Path,
    options: SamplerOptions,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[int, int]:
    """Make this process's share of a suite's files; those that exist are kept.

    Args:
        model: The model.
        suite: What to make.
        out: The output folder.
        options: How to sample.
        rank: This process's number; the first shows a progress bar.
        world_size: Number of processes.

    Returns:
        How many files were made, and how many were there.
    """
    from tqdm import tqdm

    mine = share(suite.works, rank, world_size)
    todo = [work for work in mine if not (out / work.file).is_file()]
    bar = tqdm(
        total=len(mine),
        initial=len(mine) - len(todo),
        desc=suite.bench if world_size == 1 else f"{suite.bench}, process 1 of {world_size}",
        unit="file",
        disable=rank != 0,
        mininterval=0.5 if sys.stderr.isatty() else 10,
    )
    with bar:
        for batch in _batches(todo, options.batch_size):
            for (work, source), images in zip(batch, _generate(model, suite.bench, batch, options), strict=True):
                _write(out, work, source, images, rank)
                bar.update()
    if suite.finish and all((out / work.file).is_file() for work in suite.works):
        suite.finish(out)  # the process that ends last finds all files there
    shutil.rmtree(out / PARTIAL / str(rank), ignore_errors=True)
    if (out / PARTIAL).is_dir() and not any((out / PARTIAL).iterdir()):
        (out / PARTIAL).rmdir()
    return len(todo), len(mine) - len(todo)


def reconstruct(model: UniPic2, out: Path) -> int:
    """Write ShapesBench's targets as they come out of the model's autoencoder, and return how many are new."""
    import torch

    @torch.no_grad()
    def through(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        made = []
        for picture in pictures:  # sizes may differ
            pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].to(model.device) / 127.5 - 1
            decoded = vae.decode(model.parts.vae, vae.encode(model.parts.vae, pixels))
            made.append(decoded[0].clamp(-1, 1).add(1).mul(127.5).round().byte().permute(1, 2, 0).cpu().numpy())
        return made

    return shapesbench.write_reconstructions(out, through)


def _batches(works: Sequence[Work], batch_size: int) -> Iterator[list[Loaded]]:
    """Yield works of one size, as many as make a batch; text-to-image works in order."""
    waiting: dict[object, list[Loaded]] = {}
    for work in works:
        source = None if work.source is None else Image.fromarray(work.source.pixels())
        size = (work.size, None if source is None else source.size)
        waiting.setdefault(size, []).append((work, source))
        if sum(of_size[0].tiles for of_size in waiting[size]) >= batch_size:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) > WAITING + batch_size:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


def _generate(model: UniPic2, bench: str, batch: Sequence[Loaded], options: SamplerOptions) -> list[list[Image.Image]]:
    """Return the pictures of each work of a batch."""
    requests = [
        _request(model, bench, work, source, number, options)
        for work, source in batch
        for number in range(work.number, work.number + work.tiles)
    ]
    images = iter(model.run(requests))
    return [[next(images) for _ in range(work.tiles)] for work, _ in batch]


def _request(
    model: UniPic2, bench: str, work: Work, source: Image.Image | None, number: int, options: SamplerOptions
) -> Request:
    from unipic2_unified import Request

    height, width = work.size or (None, None)
    asked = (options.height or height, options.width or width)
    own = model.sizes.default if source is None else model.sizes.keep(source.height, source.width)
    return Request(
        work.prompt,
        source,
        options.negative_prompt,
        size=(asked[0] or own[0], asked[1] or own[1]) if any(asked) else None,
        steps=options.steps,
        guidance=options.guidance,
        seed=picture_seed(options.seed, bench, work.key, number),
    )


def _write(out: Path, work: Work, source: Image.Image | None, images: list[Image.Image], rank: int) -> None:
    """Write a work's files, the picture last: where it is, everything is."""
    for name, text in work.texts.items():
        if not (out / name).is_file():
            partial = _partial(out, name, rank)
            partial.write_text(text, encoding="utf-8")
            partial.rename(_made_folder(out / name))
    if work.copy:
        assert source is not None
        _save(source, out, work.copy, rank)
    _save(images[0] if work.tiles == 1 else _tiled(images), out, work.file, rank)


def _save(image: Image.Image, out: Path, name: str, rank: int) -> None:
    partial = _partial(out, name, rank)
    image.save(partial, "PNG")
    partial.rename(_made_folder(out / name))


def _partial(out: Path, name: str, rank: int) -> Path:
    return _made_folder(out / PARTIAL / str(rank) / name.replace("/", "__"))


def _made_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _tiled(images: Sequence[Image.Image]) -> Image.Image:
    """Return four pictures as 2 x 2 tiles, in the order TL, TR, BL, BR."""
    width, height = images[0].size
    whole = Image.new("RGB", (2 * width, 2 * height))
    for index, image in enumerate(images):
        whole.paste(image, (index % 2 * width, index // 2 * height))
    return whole
