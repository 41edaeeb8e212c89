"""Scores of edits from 1 to 5, in the words of ImgEdit's rubric, and the same in GEdit's view.

================  =====================================================================================
score             5, 4, 3, 2, 1
================  =====================================================================================
compliance        exact scene / only place or size is off / done, but another object changed or the count
                  is wrong / partly done, or into something else / not done, or another picture
preservation      signal-to-noise ratio outside the edit of 30, 25, 20, 15 dB or more, or less
rendering         every object's detection scores 0.9, 0.8, 0.7, 0.5 or more, or less; a rough background
                  takes up to three points
artifact          foreground that is no object: none, and up to 0.5, 2, 5 % of the picture, or more
================  =====================================================================================

As ImgEdit's judge is told, preservation and rendering do not exceed compliance. GEdit's view takes them as they are:
``SC = min(2 compliance, 2 preservation)``, ``PQ = min(2 rendering, 2 artifact)``, ``O = sqrt(SC PQ)``.

Edits of style have no scene that a detector could read. Their compliance is how much of the difference to the target
is left where the target differs from the source (0.15, 0.3, 0.5, 0.75); their preservation how well the edges agree
with the target's (correlation of 0.95, 0.85, 0.7, 0.5); their rendering the background's alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unipic2_evals import gedit
from unipic2_evals.pictures import Pixels
from unipic2_evals.shapesbench.scenes import Scene, Seen, Thing, background_of, find, same_place, same_size

__all__ = ["EditScore", "Truth", "compliance", "score_edit"]

BACKGROUND = 20.0
"""RGB distance within which a background is the right one; two of a world are at least 36 apart."""
RATIOS_DB = (30.0, 25.0, 20.0, 15.0)
SHARP = (0.9, 0.8, 0.7, 0.5)
ROUGH = (6.0, 12.0, 24.0)
STRAY = (0.0005, 0.005, 0.02, 0.05)
LEFT = (0.15, 0.3, 0.5, 0.75)
EDGES = (0.95, 0.85, 0.7, 0.5)
CHANGED = 12
"""Difference in one channel from which a pixel belongs to the edit."""
REACH = 2
"""Pixels of 64 by which the edit's mask grows: edges are soft. Less, where nothing else would be left."""
FEW = 12
"""Pixels that are enough to tell what is outside."""


class Truth(NamedTuple):
    """What an edit should do: pictures uint8 (H, H, 3) and scenes, before and after."""

    source: Pixels
    target: Pixels
    before: Scene
    after: Scene


class EditScore(NamedTuple):
    """Scores of one edited picture."""

    compliance: int
    preservation: int
    """As measured, not lowered to the compliance; so is ``rendering``."""
    rendering: int
    artifact: int
    no_op: bool
    """Whether the picture shows the source's scene, unchanged."""

    @property
    def item(self) -> float:
        """ImgEdit's score: the mean of three, of which the second and third do not exceed the first."""
        first = self.compliance
        return (first + min(self.preservation, first) + min(self.rendering, first)) / 3

    @property
    def gedit(self) -> list[float]:
        """GEdit's scores: SC, PQ and O."""
        semantics = [2.0 * self.compliance, 2.0 * self.preservation]
        return gedit.combine(semantics, [2.0 * self.rendering, 2.0 * self.artifact])


def score_edit(pixels: Pixels, seen: Seen, truth: Truth) -> EditScore:
    """Score an edited picture.

    Args:
        pixels: The picture, of the source's size, uint8 (H, H, 3).
        seen: What a detector sees in it; of no account in edits of style.
        truth: What it should be.

    Returns:
        Scores from 1 to 5.

    Raises:
        ValueError: If the pictures have different sizes, or source and target are the same.
    """
    if not pixels.shape == truth.source.shape == truth.target.shape:
        message = f"expected pictures of one size, got {pixels.shape}, {truth.source.shape}, {truth.target.shape}"
        raise ValueError(message)
    changed = np.abs(truth.source.astype(np.int16) - truth.target).max(-1) > CHANGED
    if not changed.any():
        message = "source and target of the edit are the same picture"
        raise ValueError(message)
    smooth = 5 - sum(seen.roughness >= limit for limit in ROUGH)
    artifact = 5 - sum(seen.stray > limit for limit in STRAY)
    if truth.after.style != "plain":
        left = _rms(pixels, truth.target, changed) / _rms(truth.source, truth.target, changed)
        edges = _steps(_edge_agreement(pixels, truth.target), EDGES)
        done = _steps(-left, [-limit for limit in LEFT]) if edges > 1 else 1  # 1: of another picture
        return EditScore(done, edges, smooth, 5, left > 0.9 and edges == 5)
    outside = ~_grown(changed, len(pixels))
    noise = _rms(pixels, truth.source, outside)
    ratio = 20 * math.log10(255 / noise) if noise else math.inf
    sharp = _steps(seen.worst, SHARP) if truth.after.things else 5
    no_op = _shows(seen, truth.before, background_of(truth.source))
    return EditScore(
        compliance=1 if no_op else compliance(seen, truth),
        preservation=_steps(ratio, RATIOS_DB),
        rendering=min(sharp, smooth),
        artifact=artifact,
        no_op=no_op,
    )


def compliance(seen: Seen, truth: Truth) -> int:
    """Return how far an edit was done, from 1 to 5, for a picture that is not the unchanged source.

    What must come, go or change colour are the parts of the edit. A picture that keeps less than half of what must
    stay, or shows no object where there should be one, is another picture, whatever else it shows.
    """
    before, after = truth.before.things, truth.after.things
    kept = [thing for thing in after if (old := find(before, thing)) is not None and same_size(old, thing)]
    intact = [thing for thing in kept if find(seen.things, thing) is not None]
    if 2 * len(intact) < len(kept) or (after and not seen.things):
        return 1
    parts = _parts(seen, truth)
    if not all(parts):
        into_something_else = any(
            (found := _in_cell(seen.things, thing.cell)) is not None
            and ((old := _in_cell(before, thing.cell)) is None or found.graph != old.graph)
            for thing in after
            if thing not in kept
        )
        return 2 if any(parts) or into_something_else else 1
    right_ground = _near(seen.background, background_of(truth.target))
    if len(intact) < len(kept) or len(seen.things) != len(after) or seen.unclear or not right_ground:
        return 3
    found_all = [(find(seen.things, thing), thing) for thing in after]
    fine = all(found and same_place(found, thing) and same_size(found, thing) for found, thing in found_all)
    return 5 if fine else 4


def _parts(seen: Seen, truth: Truth) -> list[bool]:
    """Return which parts of the edit are done: each thing that comes, each that goes, the background."""
    before, after = truth.before.things, truth.after.things
    parts = []
    for thing in after:
        old, found = find(before, thing), find(seen.things, thing)
        if old is None:
            parts.append(found is not None)
        elif not same_size(old, thing):  # bigger or smaller: the size is what is asked for
            parts.append(found is not None and same_size(found, thing))
    gone = [thing for thing in before if find(after, thing) is None and _in_cell(after, thing.cell) is None]
    parts += [find(seen.things, thing) is None for thing in gone]
    grounds = background_of(truth.source), background_of(truth.target)
    if not _near(*grounds):
        parts.append(_near(seen.background, grounds[1]))
    return parts


def _shows(seen: Seen, scene: Scene, background: npt.NDArray[np.float64]) -> bool:
    """Whether a picture shows a scene, as far as a person would say so at a glance."""
    found_all = [(find(seen.things, thing), thing) for thing in scene.things]
    return (
        len(seen.things) == len(scene.things)
        and all(found is not None and same_size(found, thing) for found, thing in found_all)
        and _near(seen.background, background)
    )


def _in_cell(things: Sequence[Thing], cell: int) -> Thing | None:
    return next((thing for thing in things if thing.cell == cell), None)


def _near(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool:
    return bool(np.linalg.norm(first - second) <= BACKGROUND)


def _steps(value: float, limits: Sequence[float]) -> int:
    """Return 5 for a value that reaches the first limit, 4 for the second, and so on; 1 for none."""
    return 1 + sum(value >= limit for limit in limits)


def _rms(first: Pixels, second: Pixels, mask: npt.NDArray[np.bool_]) -> float:
    """Return the root mean square difference of two pictures within a mask (H, H); 0 if it is empty."""
    if not mask.any():
        return 0.0
    return float(np.sqrt(((first[mask].astype(np.float32) - second[mask]) ** 2).mean()))


def _grown(mask: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.bool_]:
    """Return the mask grown by `REACH`, or by less, so that a few pixels are left outside."""
    best = mask
    grown = mask.copy()
    for _ in range(round(REACH * size / 64)):
        wider = grown.copy()
        wider[1:] |= grown[:-1]
        wider[:-1] |= grown[1:]
        wider[:, 1:] |= grown[:, :-1]
        wider[:, :-1] |= grown[:, 1:]
        if (~wider).sum() < FEW:
            break
        best = grown = wider
    return best


def _edge_agreement(pixels: Pixels, target: Pixels) -> float:
    """Return the correlation of two pictures' edges, strength of the gradient of their brightness, in [-1, 1]."""
    edges = []
    for picture in (pixels, target):
        down, right = np.gradient(picture.astype(np.float32).mean(-1))
        strength = np.hypot(down, right).ravel()
        edges.append(strength - strength.mean())
    lengths = [float(np.linalg.norm(strength)) for strength in edges]
    if lengths[1] < 1:  # no edges in the target: there is nothing to agree with
        return 1.0
    return float(edges[0] @ edges[1]) / max(lengths[0] * lengths[1], 1e-6)
