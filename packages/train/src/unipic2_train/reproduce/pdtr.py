"""``reproduce pdtr``: claims C4 and C5, reinforcement in stages (UniPic 2.0, section 3.2 and table 4).

The report's table has none, editing, text-to-image, and editing then text-to-image. Beside these stand what it leaves
out: the other order, both tasks in turn, and the same task twice, all at the compute of the two stages.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from unipic2_train import recipes
from unipic2_train.reproduce.curves import read_curve
from unipic2_train.reproduce.grid import Cell, Claim, Grid
from unipic2_train.reproduce.reinforcement import digest, own_sampling, reinforce, score_sampled, start, start_words
from unipic2_train.reproduce.scoring import JUDGED, MEASURES, score_kontext

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["pdtr"]

MARGIN = 0.02
"""A score that is lower by more counts as lower (acceptance gates of the shapes world)."""
EDIT, T2I = "editing", "text-to-image"


def pdtr(preset: str, seeds: int, steps: int, samples: int) -> Grid:
    """Return the grid of C4 and C5.

    Args:
        preset: Recipes ``edit-rl/PRESET`` and ``t2i-rl/PRESET``.
        seeds: Number of seeds, from 0.
        steps: N, iterations of one stage.
        samples: Test samples of each kind.
    """
    own = own_sampling(preset)
    arms = {
        "none": "the start, not reinforced",
        "none-guided": f"the start, sampled as its own recipe does: {_words(own)}",
        "edit": f"{EDIT}, {steps} iterations",
        "t2i": f"{T2I}, {steps} iterations",
        "edit-t2i": f"PDTR: {EDIT}, then {T2I}, {steps} iterations each",
        "t2i-edit": f"the other order: {T2I}, then {EDIT}, {steps} iterations each",
        "mixed": f"both tasks in turn, {2 * steps} iterations",
        "edit-edit": f"{EDIT} twice, {steps} iterations each",
        "t2i-t2i": f"{T2I} twice, {steps} iterations each",
    }
    cells = [cell for seed in range(seeds) for cell in _cells(preset, seed, steps, own)]
    settings = {"preset": preset, "steps": steps, "samples": samples, "recipes_sha256": digest(cells)}
    measures = MEASURES | JUDGED
    score = partial(score_kontext, samples=samples, measures=measures)
    title = "C4 and C5: reinforcement in stages"
    text = _text(preset, steps, samples, own)
    return Grid("pdtr", title, text, arms, measures, _claims(), cells, score, settings, curve=read_curve)


def _cells(preset: str, seed: int, steps: int, own: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of one seed: the first stages are run once for all that go on from them."""
    none = start(preset, seed, "none")
    edit = reinforce("edit", none, ["edit"], preset, steps)
    t2i = reinforce("t2i", none, ["t2i"], preset, steps)
    return [
        none,
        score_sampled("none-guided", none, own),
        edit,
        t2i,
        reinforce("edit-t2i", edit, ["t2i"], preset, steps),
        reinforce("t2i-edit", t2i, ["edit"], preset, steps),
        reinforce("mixed", none, ["edit", "t2i"], preset, 2 * steps),
        reinforce("edit-edit", edit, ["edit"], preset, steps),
        reinforce("t2i-t2i", t2i, ["t2i"], preset, steps),
    ]


def _claims() -> list[Claim]:
    kept = "is not lowered by it"
    claims = [
        Claim("editing", "is raised by a stage of editing", "edit/exact", "none", "edit", part_of="C4"),
        Claim("text-to-image", kept, "t2i/exact", "none", "edit", MARGIN, "C4"),
        Claim("text-to-image", "is raised by a stage of it after editing", "t2i/exact", "edit", "edit-t2i",
              part_of="C5"),
        Claim("editing", kept, "edit/exact", "edit", "edit-t2i", MARGIN, "C5"),
    ]  # fmt: skip
    own = "is raised by its own stage, says the held-out judge"
    claims += [
        Claim("editing", own, "edit/judged", "none", "edit"),
        Claim("text-to-image", own, "t2i/judged", "edit", "edit-t2i"),
        Claim("text-to-image", f"{own}, without editing before", "t2i/judged", "none", "t2i"),
    ]
    rivals = {
        "t2i-edit": "than after the other order",
        "mixed": "than after both tasks in turn",
        "edit-edit": "than after editing twice",
        "t2i-t2i": "than after text-to-image twice",
        "none-guided": "than without reinforcement, sampled as the start's recipe does",
    }
    claims += [
        Claim(name, f"is higher after PDTR {than}", f"{task}/exact", rival, "edit-t2i")
        for rival, than in rivals.items()
        for task, name in (("edit", EDIT), ("t2i", T2I))
    ]
    return claims


def _text(preset: str, steps: int, samples: int, own: Mapping[str, Any]) -> list[str]:
    sampling = recipes.resolve(f"edit-rl/{preset}")["model"]["kontext"]["sampling"]
    return [
        "Claim C4: reinforcing editing raises editing and does not lower text-to-image. Claim C5: reinforcing "
        "text-to-image after it raises text-to-image and does not lower editing. Each is shown if both of its lines "
        "are. The report shows four of these arms and says nothing of the other order, of both tasks together, or of "
        "what the second stage's compute would have brought to the first task.",
        f"Equal compute: the five arms that end after two stages take {2 * steps} iterations each, those of one stage "
        f"{steps}. Every iteration samples as many images and takes as many optimiser steps; one of editing costs more "
        "than one of text-to-image, for the source's tokens, so editing twice is the dearest of the five. The stages "
        "`edit` and `t2i` run once a seed, and what comes second goes on from their exported model: the average, with "
        "the adapter merged, which is also its reference. `mixed` has one adapter, one reference and one optimiser "
        "throughout.",
        *start_words(preset),
        f"Each model is scored on the same {samples} test samples of each task from the same noise, by detector B, "
        "which no reward uses: whole scenes that are exactly right, and the held-out judge, which is the reward's own "
        f"rule with detector B's eyes. Sampling is that of the rollouts: {_words(sampling)}. The start as its own "
        f"recipe samples it, {_words(own)}, is an arm of its own: much of what reinforcement learns could be had by "
        "guidance and by more steps, at their price.",
    ]


def _words(sampling: Mapping[str, Any]) -> str:
    guidance = sampling["guidance"]
    return f"{sampling['steps']} steps, " + ("no guidance" if guidance == 1 else f"guidance {guidance:g}")
