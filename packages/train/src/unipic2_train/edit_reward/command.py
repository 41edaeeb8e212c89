"""``unipic2-train label-edits``: edits of a checkpoint, scored by a judge.

What is slow to import is imported when it is used: ``--help`` needs no model.
"""

import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt

from unipic2_train import home
from unipic2_train.edit_reward import COMMAND, KIND
from unipic2_train.rewards import command as rewards
from unipic2_train.rewards.base import Reward

if TYPE_CHECKING:
    from unipic2_data.manifest import Manifest
    from unipic2_train.edit_reward.labelling import Labels, Part
    from unipic2_unified import UniPic2

__all__ = ["label_edits", "spelled_out"]

SEVERAL = ("--checkpoint", "--steps", "--guidance")
"""Options that take several values with commas between."""


def label_edits(
    checkpoint: list[str],
    data: str,
    out: str,
    judge: Reward,
    samples: PositiveInt,
    held_out: NonNegativeInt = 256,
    per_group: PositiveInt = 8,
    steps: list[PositiveInt] = [24],  # noqa: B006 - never changed; jsonargparse shows it
    guidance: list[float] = [1.0],  # noqa: B006
    size: PositiveInt | None = None,
    vlm: str | None = None,
    seed: NonNegativeInt = 0,
    batch_size: PositiveInt = 32,
    device: str | None = None,
) -> str:
    """Sample edits from checkpoints and have a judge score them: the data of stage edit-reward.

    Writes canonical shards, the results in the place of targets. Finished shards are kept, so a stopped command goes on
    when it is given again; scores of two judges never meet in one folder. Under torchrun the processes share the work.

    Args:
        checkpoint: Model folder, hub id or home:PRESET/THING; several with commas between, all held in memory.
        data: Canonical data set with edits: a folder, or home:PRESET/shapes.
        out: Folder of the new data set, or home:PRESET/edit-scores, where the recipe edit-reward/PRESET looks.
        judge: Class path of a reward, or its short name; what it takes is given as --judge.KEY VALUE.
        samples: Groups of the train split: sources with an instruction.
        held_out: Groups of the validation and of the test split, each as far as the data has it.
        per_group: Edits of a group, 2 or more.
        steps: Denoising steps; several with commas between, so that edits of a group differ in quality.
        guidance: Scale of guidance, likewise; 1 turns it off.
        size: Edge of the square pictures in px; by default the checkpoint's own.
        vlm: The VLM of MetaQuery checkpoints; by default vlm/ inside them.
        seed: Seed of what is chosen and of all noise.
        batch_size: Edits that are sampled together.
        device: Where to run; by default a GPU if there is one (under torchrun each process its own).
    """
    if per_group < 2:
        msg = f"per_group is {per_group}: edits are compared within a group, so it needs at least 2"
        raise ValueError(msg)
    if KIND not in judge.kinds:
        msg = f"{type(judge).__name__} scores {', '.join(judge.kinds)}, no edits: name another --judge"
        raise ValueError(msg)
    from unipic2_data.manifest import Manifest
    from unipic2_train.edit_reward import labelling

    source = Manifest.load(home.provide(data))
    splits = {"train": samples} | _held_out(source, held_out)
    parts = labelling.parts_of(source, splits, seed)
    who = judge.prepare()  # before anything large is loaded
    models = [_model(each, vlm, device) for each in checkpoint]
    edge = size or max(models[0].sizes.default)
    makers = tuple(
        labelling.Maker(*each) for each in product(range(len(models)), (int(n) for n in steps), map(float, guidance))
    )
    target = home.folder() / out.removeprefix(home.PREFIX) if out.startswith(home.PREFIX) else Path(out).expanduser()
    labels = labelling.Labels(target, source, edge, per_group, seed, makers)
    facts: dict[str, Any] = {
        "command": COMMAND,
        "data": source.digest,
        "checkpoints": [
            {"checkpoint": name, "hash": model.info()["hash"]} for name, model in zip(checkpoint, models, strict=True)
        ],
        "judge": who._asdict(),
        "splits": splits,
        "per_group": per_group,
        "steps": [int(n) for n in steps],
        "guidance": [float(scale) for scale in guidance],
        "size": edge,
        "seed": seed,
    }
    labelling.begin(target, facts)
    return _run(labels, parts, models, judge, facts, batch_size)


def spelled_out(words: Sequence[str]) -> list[str]:
    """Return a command line with class paths in place of short names behind ``--judge``, and lists in brackets."""
    found: list[str] = []
    option = ""
    for word in rewards.spelled_out(words, "--judge"):
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            found.append(f"{option}={_listed(option, value)}" if equals else word)
        else:
            found.append(_listed(option, word))
    return found


def _listed(option: str, value: str) -> str:
    return f"[{value}]" if option in SEVERAL and not value.startswith("[") else value


def _held_out(source: "Manifest", groups: int) -> dict[str, int]:
    """Return the groups of validation and test.

    Raises:
        ValueError: There are to be some, and the data has no edits to hold out.
    """
    if not groups:
        return {}
    available = {split: source.counts.get(split, {}).get(KIND, 0) for split in ("validation", "test")}
    if not available["validation"]:
        msg = (
            f"{source.root} has no edits in a validation split to hold out: make one (`unipic2-data split`), or go "
            "without (--held_out 0)"
        )
        raise ValueError(msg)
    return {split: min(groups, there) for split, there in available.items() if there}


def _model(checkpoint: str, vlm: str | None, device: str | None) -> "UniPic2":
    from transformers.utils import logging

    from unipic2_unified import UniPic2

    logging.disable_progress_bar()  # one a text encoder would hide the bar of the edits
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    model = UniPic2.from_pretrained(
        home.source(checkpoint),
        vlm=None if vlm is None else home.source(vlm),
        device=device or gpu,
    )
    model.check_capable("edit")
    return model


def _run(
    labels: "Labels",
    parts: Sequence["Part"],
    models: Sequence["UniPic2"],
    judge: Reward,
    facts: dict[str, Any],
    at_once: int,
) -> str:
    """Make this process's share of the shards; whoever finds all of them there writes the manifest."""
    from filelock import FileLock
    from tqdm import tqdm

    from unipic2_train.edit_reward.labelling import finish, label

    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    mine = parts[rank::world_size]
    todo = [part for part in mine if not (labels.out / part.path).is_file()]
    edits, left = (sum(len(part.rows) for part in some) * labels.per_group for some in (mine, todo))
    bar = tqdm(
        total=edits,
        initial=edits - left,
        desc=COMMAND if world_size == 1 else f"{COMMAND}, process 1 of {world_size}",
        unit="edit",
        disable=rank != 0,
        mininterval=0.5 if sys.stderr.isatty() else 10,
    )
    with bar:
        for part in todo:
            for made in label(labels, part, models, judge, at_once):
                bar.update(made)
    if not all((labels.out / part.path).is_file() for part in parts):
        return f"{left} edits made, {edits - left} were there; other processes are not done with theirs"
    with FileLock(labels.out.with_name(f".{labels.out.name}.lock")):
        manifest = finish(labels.out, parts, facts, labels.per_group)
    scores = manifest.generator["scores"]
    return (
        f"{left} edits made, {edits - left} were there: {labels.out}\n"
        f"scores of the train split: mean {scores['mean']:.4f}, std {scores['std']:.4f}, by {facts['judge']['id']}"
    )
