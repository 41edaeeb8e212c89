"""``unipic2-train reproduce NAME``: run a grid, or go on with it, and write its page."""

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path

from jsonargparse.typing import PositiveInt

__all__ = ["GRIDS", "reproduce"]

GRIDS = {
    "pretrain": ("unipic2_train.reproduce.pretrain:pretrain", 400),
    "pdtr": ("unipic2_train.reproduce.pdtr:pdtr", 40),
    "metaquery": ("unipic2_train.reproduce.metaquery:metaquery", 300),
    "edit-reward": ("unipic2_train.reproduce.edit_reward:edit_reward", 40),
    "rl-presets": ("unipic2_train.reproduce.rl_presets:rl_presets", 40),
}
"""What can be reproduced: functions of preset, seeds, steps and samples that return a `Grid`, and their usual steps."""


def reproduce(
    name: str,
    *,
    preset: str = "tiny",
    seeds: PositiveInt = 5,
    steps: PositiveInt | None = None,
    samples: PositiveInt = 400,
    arms: list[str] | None = None,
    out: Path | None = None,
    page_only: bool = False,
) -> str:
    """Settle a claim of the report by a grid of small runs over seeds.

    Finished runs are kept, and a stopped one goes on from its checkpoint, when the command is given again. More seeds
    can be added later. Several processes may work on one folder. Fewer than five seeds give a page without verdicts.

    Args:
        name: pretrain (C1: one network for both tasks against two single-task networks), metaquery (C2 and C3: who
            sees the reference, and what the joint stage trains), pdtr (C4 and C5: reinforcement in stages, its order,
            and mixed), edit-reward (a learnt edit reward against the verifier, home:PRESET/edit-reward) or rl-presets
            (the report's settings, faster ones, NFT).
        preset: Preset of the recipes: tiny, or debug to try the machinery in seconds.
        seeds: Number of seeds.
        steps: Optimiser steps of a single-task run (pretrain: 400) or joint one (metaquery: 300), or iterations of a
            stage (40); what the other arms take is said on the page.
        samples: Test samples of each task that a finished run is scored on.
        arms: Only these arms, and the claims that they settle; for example [joint,t2i,edit].
        out: Where runs, cells and page go. Default: runs/reproduce-NAME-PRESET.
        page_only: Run nothing; write the page of what is finished.
    """
    if name not in GRIDS:
        msg = f"nothing called {name!r} can be reproduced; known: {', '.join(GRIDS)}"
        raise ValueError(msg)
    place, usual = GRIDS[name]
    module, _, function = place.partition(":")
    steps = steps or usual
    build: Callable = getattr(importlib.import_module(module), function)
    grid = build(preset, seeds, steps, samples)
    if arms is not None:
        grid = grid.only(arms)
    folder = (out or Path("runs") / f"reproduce-{name}-{preset}").expanduser().resolve()

    from unipic2_train.reproduce.execute import committed, run_grid
    from unipic2_train.reproduce.page import write_page

    if not page_only:
        run_grid(grid, folder)
    cells = committed(grid, folder)
    if not cells:
        msg = f"{folder} holds no finished cell of {name}; leave --page_only out to run them"
        raise ValueError(msg)
    words = ["unipic2-train", "reproduce", name, "--preset", preset, "--seeds", seeds, "--steps", steps]
    words += ["--samples", samples, *(["--arms", f"[{','.join(arms)}]"] if arms else [])]
    pages = write_page(grid, cells, folder, shlex.join(map(str, words)))
    return f"{len(cells)} of {len(grid.cells)} cells are finished\n" + "\n".join(f"page: {file}" for file in pages[:3])
