"""Write a data set of the shapes world: four splits of text-to-image and edit samples.

Each sample is a function of (seed, key) alone, so shards can be written by any number of processes with the same bytes.
"""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.manifest import Manifest, Shard, ShardWriter, new_folder, package_versions
from unipic2_data.randomness import keyed_rng
from unipic2_data.sample import Image, Sample
from unipic2_data.shapes.edits import EDITS, Edit, draw_edit, random_scene_for
from unipic2_data.shapes.prompts import PROMPTS, TAGS, Prompt, scene_caption, scene_for
from unipic2_data.shapes.render import render_batch
from unipic2_data.shapes.scene import Draws, Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["TRAIN_TAG_WEIGHTS", "ShapesConfig", "prompt_list", "random_caption", "random_scene", "write_shapes"]

TRAIN_TAG_WEIGHTS = {  # what needs most practice comes most often; "scene" = captions that name every object and cell
    "single_object": 0.08,
    "two_object": 0.12,
    "counting": 0.14,
    "colors": 0.12,
    "position": 0.16,
    "color_attr": 0.26,
    "scene": 0.12,
}
_AXES = ("pair", "phrasing")
_PAIR_TAGS = ("colors", "color_attr")  # the categories whose prompts name colours
_IMAGES_PER_PROMPT = 16  # at most, in the fixed splits
_DIFFERENT = {"test": 400}  # so many strings of the split come before any repetition
_SHARD_SAMPLES = 4096
_CHUNK = 256  # samples rendered together
_CAPTION_ITEMS = 2  # objects that a "scene" caption names, at most


@dataclass(frozen=True)
class ShapesConfig:
    """Size and seed of a data set.

    Attributes:
        size: Width and height in pixels.
        seed: Seed of everything random.
        samples: Split -> kind -> number of samples.
    """

    size: int
    seed: int
    samples: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A sample before rendering."""

    key: str
    scenes: tuple[Scene, ...]  # the picture, or source and target
    meta: dict[str, Any]


def write_shapes(
    out: Path, config: ShapesConfig, workers: int = 1, progress: Callable[[int], object] | None = None
) -> Manifest:
    """Write a data set.

    Args:
        out: Folder to make; must not exist or be empty.
        config: Sizes and seed.
        workers: Processes; the bytes do not depend on it.
        progress: Called with the number of samples of each finished shard.

    Returns:
        The manifest, saved.

    Raises:
        DataError: If the folder is not empty or the sizes make no sense.
    """
    jobs = [
        (split, kind, start, min(start + _SHARD_SAMPLES, count))
        for split, kinds in config.samples.items()
        for kind, count in kinds.items()
        for start in range(0, count, _SHARD_SAMPLES)
    ]
    if not jobs:
        msg = "asked for no samples at all; give --t2i or --edit a number above 0."
        raise DataError(msg)
    with new_folder(out) as folder:
        shards = []
        for shard in _run(partial(_write_shard, folder, config), jobs, workers):
            shards.append(shard)
            if progress:
                progress(shard.samples)
        Manifest(folder, shards, _settings(config), package_versions("numpy")).save()
    return Manifest.load(out)


def random_scene(draws: Draws, split: str) -> Scene:
    """Draw a scene of 1-3 objects that belongs to a split."""
    while True:
        scene = random_scene_for("replace", draws, allow_pairs=split == "heldout")
        if scene.split == split:
            return scene


def random_caption(draws: Draws) -> tuple[Prompt, Scene]:
    """Draw a training scene with the caption that names all of it.

    Scenes of three objects are left out: their captions would cost every prompt tokens that only they need.
    """
    while True:
        scene = random_scene(draws, "train")
        if len(scene.items) <= _CAPTION_ITEMS:
            return scene_caption(scene, draws), scene


def prompt_list(split: str, count: int, seed: int) -> list[Prompt]:
    """Return the prompts of a fixed split, as balanced over tags as their strings allow.

    Each sample goes to the tag that has fewest so far; a tag whose strings are used up repeats them, up to 16 times
    each (other picture, other noise). The test split begins with 400 different strings, whatever their tags.

    Raises:
        DataError: If the split has too few strings for so many samples.
    """
    groups: list[list[Prompt]] = []
    for axis in _AXES if split == "heldout" else (None,):
        for tag in TAGS:
            prompts = [prompt for prompt in PROMPTS[split][tag] if prompt.axis == axis and _has_scene(prompt, split)]
            order = keyed_rng(seed, f"prompts-{split}-{axis}-{tag}").permutation(len(prompts))
            groups.append([prompts[index] for index in order])
    groups = [prompts for prompts in groups if prompts]
    limit = _IMAGES_PER_PROMPT * sum(map(len, groups))
    if count > limit:
        msg = f"the '{split}' split has prompts for {limit} text-to-image samples at most, asked for {count}."
        raise DataError(msg)
    chosen: list[Prompt] = []
    placed = [0] * len(groups)
    while len(chosen) < count:
        images = 1 if len(chosen) < _DIFFERENT.get(split, 0) else _IMAGES_PER_PROMPT
        room = [n for n, prompts in enumerate(groups) if placed[n] < images * len(prompts)]
        smallest = min(room, key=lambda n: placed[n])
        chosen.append(groups[smallest][placed[smallest] % len(groups[smallest])])
        placed[smallest] += 1
    return chosen


def _has_scene(prompt: Prompt, split: str) -> bool:
    return scene_for(prompt, split, Draws(keyed_rng(0, f"probe-{prompt.text}"))) is not None


def _run(write: Callable[[tuple[str, str, int, int]], Shard], jobs: list, workers: int) -> Iterator[Shard]:
    if workers <= 1 or len(jobs) == 1:
        yield from map(write, jobs)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"))
    try:
        # Ctrl-C reaches every process of the terminal. The workers, started here, inherit a mask and never see it: this
        # process decides, and they finish their shard and stop. (A worker that dies of it can leave the pool waiting.)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            shards = pool.map(write, jobs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield from shards
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shard(root: Path, config: ShapesConfig, job: tuple[str, str, int, int]) -> Shard:
    split, kind, start, stop = job
    draw = _drawer(split, kind, config)
    with ShardWriter(root, f"{split}/{kind}-{start // _SHARD_SAMPLES:05d}.tar", split, kind) as writer:
        for chunk in range(start, stop, _CHUNK):
            drawn = [draw(index) for index in range(chunk, min(chunk + _CHUNK, stop))]
            pixels = iter(render_batch([scene for one in drawn for scene in one.scenes], config.size))
            for one in drawn:
                images = [Image(encode_png(next(pixels))) for _ in one.scenes]
                one.meta["width"] = one.meta["height"] = config.size
                writer.add(Sample(one.key, kind, one.meta, images[-1], images[:-1]))
    assert writer.shard is not None
    return writer.shard


def _drawer(split: str, kind: str, config: ShapesConfig) -> Callable[[int], _Drawn]:
    """Return the function that draws sample number i of a split and kind."""
    if kind == "edit":
        return partial(_draw_edit, split, config.seed)
    if split == "train":
        return partial(_draw_t2i_train, config.seed)
    prompts = prompt_list(split, config.samples[split][kind], config.seed)
    return partial(_draw_t2i_fixed, split, config.seed, prompts)


def _draw_t2i_train(seed: int, index: int) -> _Drawn:
    key = _key("t2i", "train", seed, index)
    draws = Draws(keyed_rng(seed, key))
    while True:
        tag = _weighted(draws.uniform(), TRAIN_TAG_WEIGHTS)
        if tag == "scene":
            prompt, captioned = random_caption(draws)
            scene: Scene | None = captioned
            if prompt.split != "train":
                continue
        else:
            prompt = draws.choice(PROMPTS["train"][tag])
            scene = scene_for(prompt, "train", draws)
        if scene is not None:
            return _t2i(key, "train", prompt, scene)


def _draw_t2i_fixed(split: str, seed: int, prompts: list[Prompt], index: int) -> _Drawn:
    key = _key("t2i", split, seed, index)
    draws = Draws(keyed_rng(seed, key))
    scene = None
    while scene is None:  # `prompt_list` holds only prompts that some scene of the split shows
        scene = scene_for(prompts[index], split, draws)
    return _t2i(key, split, prompts[index], scene)


def _t2i(key: str, split: str, prompt: Prompt, scene: Scene) -> _Drawn:
    shapes = {"split": split, "axis": prompt.axis, "scene": scene.to_json(), "metadata": prompt.metadata}
    meta = {"task": prompt.tag, "captions": [prompt.text], "source": "shapes", "licence": "CC0-1.0", "shapes": shapes}
    return _Drawn(key, (scene,), meta)


def _draw_edit(split: str, seed: int, index: int) -> _Drawn:
    key = _key("edit", split, seed, index)
    axis = _AXES[index // len(EDITS) % 2] if split == "heldout" else None
    edit: Edit = draw_edit(EDITS[index % len(EDITS)], split, Draws(keyed_rng(seed, key)), axis)
    shapes = {
        "split": split,
        "axis": axis,
        "scene": edit.source.to_json(),
        "target_scene": edit.target.to_json(),
        "metadata": {"tag": edit.type, "prompt": edit.instruction},
    }
    meta = {
        "task": edit.type,
        "instruction": edit.instruction,
        "source": "shapes",
        "licence": "CC0-1.0",
        "shapes": shapes,
    }
    return _Drawn(key, (edit.source, edit.target), meta)


def _key(kind: str, split: str, seed: int, index: int) -> str:
    return f"shapes-{seed}-{kind}-{split}-{index:07d}"


def _weighted(position: float, weights: dict[str, float]) -> str:
    position *= sum(weights.values())
    for name, weight in weights.items():
        position -= weight
        if position < 0:
            return name
    return name


def _settings(config: ShapesConfig) -> dict[str, Any]:
    return {"command": "shapes", "size": config.size, "seed": config.seed, "samples": config.samples}
