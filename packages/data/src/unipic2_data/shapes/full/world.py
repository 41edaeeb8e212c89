"""Write a data set of the full world: text-to-image, edit and question samples in four splits.

Each sample is a function of (seed, key) alone; in the fixed splits (all but "train") prompts are drawn again, as long
as there are other strings, where an earlier sample of the split has the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from unipic2_data.images import encode_png
from unipic2_data.manifest import Manifest, Shard, ShardWriter
from unipic2_data.randomness import keyed_rng
from unipic2_data.sample import Image, Sample
from unipic2_data.shapes.full.edits import AXIS_EDITS, EDITS, draw_edit
from unipic2_data.shapes.full.prompts import AXIS_TAGS, TAGS, Prompt, draw_prompt, scene_caption, scene_for
from unipic2_data.shapes.full.questions import AXIS_QUESTIONS, DISCIPLINES, draw_question
from unipic2_data.shapes.full.render import render_batch
from unipic2_data.shapes.full.scene import Scene
from unipic2_data.shapes.scene import Draws
from unipic2_data.shapes.world import TRAIN_TAG_WEIGHTS, ShapesConfig
from unipic2_data.shapes.writing import SHARD_SAMPLES, write_world

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from unipic2_data.shapes.writing import Job

__all__ = ["draw_sample", "prompt_list", "write_full_world"]

_CHUNK = 128  # samples rendered together
_TRIES = 20  # draws of a prompt that no earlier sample has
_TAG_DECK = tuple(tag for tag, weight in TRAIN_TAG_WEIGHTS.items() for _ in range(round(100 * weight)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample before rendering: its scenes are the picture, or source and target."""

    key: str
    scenes: tuple[Scene, ...]
    meta: dict[str, Any]


def write_full_world(
    out: Path, config: ShapesConfig, workers: int = 1, progress: Callable[[int], object] | None = None
) -> Manifest:
    """Write a data set.

    Args:
        out: Folder to make; must not exist or be empty.
        config: Sizes and seed; kinds are t2i, edit and qa.
        workers: Processes; the bytes do not depend on it.
        progress: Called with the number of samples of each finished shard.

    Returns:
        The manifest, saved.

    Raises:
        DataError: If the folder is not empty or no samples are asked for.
    """
    settings = {
        "command": "shapes",
        "world": "full",
        "size": config.size,
        "seed": config.seed,
        "samples": config.samples,
    }
    write_world(out, settings, partial(_write_shard, config), workers, progress)
    return Manifest.load(out)


def prompt_list(split: str, count: int, seed: int) -> list[tuple[Prompt, Scene]]:
    """Return the prompts of a fixed split, each with a scene: all categories, or all held-out axes, in turn."""
    seen: set[str] = set()
    prompts: list[tuple[Prompt, Scene]] = []
    for index in range(count):
        axis, tag = _turn(AXIS_TAGS, TAGS, split, index)
        draws = Draws(keyed_rng(seed, _key("t2i", split, seed, index), purpose="prompt"))
        drawn = _prompt(tag, split, draws, axis)
        for _ in range(_TRIES):
            if drawn[0].text not in seen:
                break
            drawn = _prompt(tag, split, draws, axis)
        seen.add(drawn[0].text)
        prompts.append(drawn)
    return prompts


def draw_sample(kind: str, split: str, seed: int, index: int, prompts: Sequence[tuple[Prompt, Scene]] = ()) -> Drawn:
    """Draw one sample.

    Args:
        kind: "t2i", "edit" or "qa".
        split: The split.
        seed: Seed of the data set.
        index: Number of the sample within its split and kind.
        prompts: `prompt_list`, for t2i of a fixed split.
    """
    key = _key(kind, split, seed, index)
    draws = Draws(keyed_rng(seed, key))
    if kind == "t2i":
        prompt, scene = _training_prompt(draws) if split == "train" else prompts[index]
        meta = {"task": prompt.tag, "captions": [prompt.text]}
        return _drawn(key, split, prompt.axis, (scene,), meta, prompt.metadata)
    if kind == "edit":
        axis, edit_type = _turn(AXIS_EDITS, EDITS, split, index)
        edit = draw_edit(edit_type, split, draws, axis)
        meta = {"task": edit_type, "instruction": edit.instruction}
        return _drawn(key, split, axis, (edit.source, edit.target), meta, {"prompt": edit.instruction})
    axis, discipline = _turn(AXIS_QUESTIONS, DISCIPLINES, split, index)
    asked = draw_question(discipline, split, draws, axis)
    meta = {"task": discipline, "question": asked.text, "options": list(asked.options), "answer": asked.answer}
    return _drawn(key, split, axis, (asked.scene,), meta, {"prompt": asked.text})


def _training_prompt(draws: Draws) -> tuple[Prompt, Scene]:
    tag = draws.choice(_TAG_DECK)
    if tag == "scene":
        return scene_caption(draws)
    return _prompt(tag, "train", draws)


def _prompt(tag: str, split: str, draws: Draws, axis: str | None = None) -> tuple[Prompt, Scene]:
    """Draw a prompt and a scene of a split that shows it."""
    while True:
        prompt = draw_prompt(tag, split, draws, axis)
        scene = scene_for(prompt, split, draws)
        if scene is not None:
            return prompt, scene


def _turn(by_axis: Mapping[str, Sequence[str]], names: Sequence[str], split: str, index: int) -> tuple[str | None, str]:
    """Return axis (held-out split only) and category of sample number `index`: all of them in turn."""
    if split != "heldout":
        return None, names[index % len(names)]
    axis = tuple(by_axis)[index % len(by_axis)]
    return axis, by_axis[axis][index // len(by_axis) % len(by_axis[axis])]


def _drawn(
    key: str, split: str, axis: str | None, scenes: tuple[Scene, ...], meta: dict[str, Any], metadata: dict[str, Any]
) -> Drawn:
    shapes = {"split": split, "axis": axis, "scene": scenes[0].to_json()}
    if len(scenes) > 1:
        shapes["target_scene"] = scenes[1].to_json()
    shapes["metadata"] = {"tag": meta["task"], **metadata}
    return Drawn(key, scenes, meta | {"source": "shapes", "licence": "CC0-1.0", "shapes": shapes})


def _write_shard(config: ShapesConfig, root: Path, job: Job) -> Shard:
    split, kind, start, stop = job
    fixed = kind == "t2i" and split != "train"
    prompts = prompt_list(split, stop, config.seed) if fixed else ()
    with ShardWriter(root, f"{split}/{kind}-{start // SHARD_SAMPLES:05d}.tar", split, kind) as writer:
        for chunk in range(start, stop, _CHUNK):
            indices = range(chunk, min(chunk + _CHUNK, stop))
            drawn = [draw_sample(kind, split, config.seed, index, prompts) for index in indices]
            pixels = iter(render_batch([scene for one in drawn for scene in one.scenes], config.size))
            for one in drawn:
                images = [Image(encode_png(next(pixels))) for _ in one.scenes]
                one.meta["width"] = one.meta["height"] = config.size
                references = images if kind == "qa" else images[:-1]
                writer.add(Sample(one.key, kind, one.meta, None if kind == "qa" else images[-1], references))
    assert writer.shard is not None
    return writer.shard


def _key(kind: str, split: str, seed: int, index: int) -> str:
    return f"full-{seed}-{kind}-{split}-{index:07d}"
