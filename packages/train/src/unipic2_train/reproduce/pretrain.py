"""``reproduce pretrain``: claim C1, one network learns both tasks from alternating batches (UniPic 2.0, section 3)."""

from __future__ import annotations

import hashlib
import json
from functools import partial

from unipic2_train.reproduce.grid import Cell, Claim, Grid, short_recipe
from unipic2_train.reproduce.scoring import MEASURES, score_kontext

__all__ = ["pretrain"]

MARGIN = 0.02
"""A score that is lower by more counts as lower (acceptance gates of the shapes world)."""
TASKS = {"joint": {"t2i": 1, "edit": 1}, "t2i": {"t2i": 1, "edit": 0}, "edit": {"t2i": 0, "edit": 1}}


def pretrain(preset: str, seeds: int, steps: int, samples: int) -> Grid:
    """Return the grid of C1.

    Args:
        preset: Recipe ``pretrain/PRESET``.
        seeds: Number of seeds, from 0.
        steps: N, optimiser steps of each task.
        samples: Test samples of each kind.
    """
    arms = {
        "joint": f"one network, {2 * steps} steps, text-to-image and edit batches in turn",
        "t2i": f"text-to-image alone, {steps} steps",
        "edit": f"editing alone, {steps} steps",
        "t2i-long": f"text-to-image alone, {2 * steps} steps",
        "edit-long": f"editing alone, {2 * steps} steps",
    }
    cells = []
    for seed in range(seeds):
        for arm in arms:
            task, long = arm.removesuffix("-long"), arm == "joint" or arm.endswith("-long")
            tasks = {kind: share for kind, share in TASKS[task].items() if share}
            settings = {"data.tasks": tasks, "model.kontext.seed": seed}
            recipe = short_recipe(f"pretrain/{preset}", 2 * steps if long else steps, seed, settings)
            cells.append(Cell(arm, seed, "pretrain", recipe))
    claims = []
    for task, other, name in (("t2i", "edit", "text-to-image"), ("edit", "t2i", "editing")):
        measure, than = f"{task}/exact", "is not lower than that of a single-task network"
        learns = "is learnt: higher than that of a network that never saw the task"
        claims += [
            Claim(name, learns, measure, other, "joint", part_of="C1"),
            Claim(name, f"{than}, at equal compute", measure, task, "joint", MARGIN, "C1"),
            Claim(name, f"{than} of as many steps, at half the compute", measure, f"{task}-long", "joint", MARGIN),
        ]
    text = [
        "Claim C1: one network learns text-to-image and editing from alternating batches. It is shown if the four "
        "lines that begin with C1 are.",
        f"Equal compute: the joint network takes {2 * steps} optimiser steps, {steps} on batches of each task; the "
        f"two single-task networks take {steps} steps each. Both sides see as many batches of each task and spend as "
        "many operations (an edit's step costs more than a text-to-image step, and both sides have as many of them). "
        "One side ends with one network, the other with two of its size. Nothing is shared between cells: the learning "
        "rate falls to zero at the end of each, so a shorter run is no part of a longer one.",
        "Lines about `t2i-long` and `edit-long`, where these arms were run, ask for more than C1: single-task networks "
        f"of {2 * steps} steps each, as many as the joint network takes, all on one task, twice its compute together. "
        "They show what sharing costs.",
        f"Recipe `pretrain/{preset}` in all arms, with the same optimiser, schedule, batch size and EMA; only steps, "
        "tasks and seed differ. A seed decides initial weights, order of the data and noise. Each network is scored on "
        f"the same {samples} test samples of each task from the same noise; a score is the mean over prompts.",
    ]
    shortest = json.dumps(short_recipe(f"pretrain/{preset}", steps, 0, {}), sort_keys=True)
    digest = hashlib.sha256(shortest.encode()).hexdigest()
    settings = {"preset": preset, "steps": steps, "samples": samples, "recipe_sha256": digest}
    score = partial(score_kontext, samples=samples)
    return Grid("pretrain", "C1: one network for both tasks", text, arms, MEASURES, claims, cells, score, settings)
