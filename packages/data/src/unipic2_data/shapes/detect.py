"""What the detectors of the shapes world return, and the exact-scene rules on top of it.

Two independent detectors read a picture back into a scene: `detect_hard.HardMaskDetector` (A, for rewards) and
`detect_soft.SoftAlphaDetector` (B, for evaluation). They share nothing but these types, so that a model that learns to
please A is found out by B.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from unipic2_data.shapes.scene import BACKGROUNDS, WORLD_UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unipic2_data.shapes.full.scene import Scene as FullScene
    from unipic2_data.shapes.scene import Scene

__all__ = [
    "BACKGROUND_TOLERANCE",
    "Detected",
    "Detection",
    "Detector",
    "check_images",
    "nothing_else",
    "same_scene",
    "to_geneval",
]

BACKGROUND_TOLERANCE = 20.0  # RGB distance; two backgrounds are at least 36 apart


GenevalDetections = tuple[dict[str, list[list[float]]], dict[str, list[str]]]
"""Objects {class: [[x1, y1, x2, y2, score]]} and colours {class: [colour]} of one picture, by falling score."""


@dataclass(frozen=True, slots=True)
class Detected:
    """One object: shape, colour, cell (0-3), box [x1, y1, x2, y2] in pixels (inclusive, as GenEval has it), score."""

    shape: str
    color: str
    cell: int
    box: tuple[int, int, int, int]
    score: float


@dataclass(frozen=True, slots=True)
class Detection:
    """What is in one picture.

    Attributes:
        objects: Its objects, by falling score.
        background: Estimated colour of the background, RGB 0-255.
        unexplained: Whether there is foreground that is none of the objects: a fragment, a blur, a foreign colour.
    """

    objects: tuple[Detected, ...]
    background: tuple[float, float, float]
    unexplained: bool


class Detector(Protocol):
    """A detector of the shapes world (entry-point group ``unipic2.detectors``); each says how it sees a batch."""

    def detect_batch(self, images: np.ndarray) -> list[Detection]:
        """Return what is in each picture, uint8 (B, H, W, 3), square."""
        ...

    def detect(self, image: np.ndarray) -> list[Detected]:
        """Return the objects of one picture, uint8 (H, H, 3)."""
        return list(self.detect_batch(image[None])[0].objects)

    def __call__(self, images: Sequence[np.ndarray]) -> list[GenevalDetections]:
        """Return GenEval's objects and colours of each picture, uint8 (H, H, 3): what scorers of any world ask for."""
        return [to_geneval(detection) for detection in self.detect_batch(np.stack(images))]


def same_scene(
    detection: Detection, scene: Scene | FullScene, backgrounds: Mapping[str, tuple[int, int, int]] = BACKGROUNDS
) -> bool:
    """Whether a picture shows exactly a scene.

    Shape, colour and cell of every object agree, nothing is missing, extra or unexplained, and the background is the
    scene's within ``BACKGROUND_TOLERANCE``.

    Args:
        detection: What is in the picture.
        scene: What should be.
        backgrounds: Colours of the backgrounds of the scene's world.
    """
    found = Counter((found.shape, found.color, found.cell) for found in detection.objects)
    wanted = Counter(item.graph for item in scene.items)
    distance = np.linalg.norm(np.subtract(detection.background, backgrounds[scene.background]))
    return found == wanted and not detection.unexplained and bool(distance <= BACKGROUND_TOLERANCE)


def nothing_else(detection: Detection, metadata: Mapping[str, Any]) -> bool:
    """Whether a picture shows as many objects of each class as a prompt names, and nothing else.

    Together with GenEval's own rules on the same metadata this is the exact-scene rule of text-to-image.

    Args:
        detection: What is in the picture.
        metadata: GenEval metadata of the prompt.
    """
    wanted: Counter[str] = Counter()
    for clause in metadata["include"]:
        wanted[clause["class"]] += clause["count"]
    return Counter(found.shape for found in detection.objects) == wanted and not detection.unexplained


def to_geneval(detection: Detection) -> GenevalDetections:
    """Return GenEval's ``objects`` {class: [[x1, y1, x2, y2, score]]} and ``colors`` {class: [color]}.

    Both by falling score.
    """
    objects: dict[str, list[list[float]]] = {}
    colors: dict[str, list[str]] = {}
    for found in sorted(detection.objects, key=lambda found: -found.score):
        objects.setdefault(found.shape, []).append([*map(float, found.box), found.score])
        colors.setdefault(found.shape, []).append(found.color)
    return objects, colors


def check_images(images: np.ndarray, units: int = WORLD_UNITS) -> float:
    """Return pixels per world unit.

    Raises:
        ValueError: If the array is not uint8 (B, H, W, 3) with H = W.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
        msg = f"expected square pictures, uint8 (B, H, H, 3), got {images.dtype} {images.shape}."
        raise ValueError(msg)
    return images.shape[1] / units
