"""Write a data set of the shapes world: four splits of text-to-image and edit samples.

Each sample is a function of (seed, key) alone, so shards can be written by any number of processes with the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.manifest import Manifest, Shard, ShardWriter
from unipic2_data.randomness import keyed_rng
from unipic2_data.sample import Image, Sample
from unipic2_data.shapes.edits import EDITS, Edit, draw_edit, random_scene_for
from unipic2_data.shapes.prompts import PROMPTS, TAGS, Prompt, scene_caption, scene_for
from unipic2_data.shapes.render import render_batch
from unipic2_data.shapes.scene import Draws, Scene
from unipic2_data.shapes.writing import SHARD_SAMPLES, write_world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unipic2_data.shapes.writing import Job

__all__ = ["TRAIN_TAG_WEIGHTS", "ShapesConfig", "prompt_list", "random_caption", "random_scene", "write_shapes"]

TRAIN_TAG_WEIGHTS = {  # what needs most practice comes most often; "scene" = captions that name every object and cell
    "single_object": 0.04,
    "two_object": 0.10,
    "counting": 0.10,
    "colors": 0.06,
    "position": 0.12,
    "color_attr": 0.28,
    "scene": 0.30,  # they leave nothing open, so they teach what words mean in the fewest samples
}
_AXES = ("pair", "phrasing")
_PAIR_TAGS = ("colors", "color_attr")  # the categories whose prompts name colours
_IMAGES_PER_PROMPT = 16  # at most, in the fixed splits
_DIFFERENT = {"test": 400}  # so many strings of the split come before any repetition
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
    write_world(out, _settings(config), partial(_write_shard, config), workers, progress)
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


def _write_shard(config: ShapesConfig, root: Path, job: Job) -> Shard:
    split, kind, start, stop = job
    draw = _drawer(split, kind, config)
    with ShardWriter(root, f"{split}/{kind}-{start // SHARD_SAMPLES:05d}.tar", split, kind) as writer:
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
