"""What scoring expects of models that look at images, and where installed detectors are found.

Packages offer detectors through the entry-point group ``unipic2.detectors``: an entry point is named as a person asks
for it, and is a detector class, or anything else that returns a `Detector` when called without arguments. This package
knows none of them.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["DETECTOR_GROUP", "VQA", "Detected", "Detector", "Judge", "detectors", "load_detector"]

DETECTOR_GROUP = "unipic2.detectors"


class Detected(NamedTuple):
    """What a detector saw in one image, as GenEval's rules take it."""

    objects: Mapping[str, Sequence[Sequence[float]]]
    """Detections ``[x1, y1, x2, y2, score]`` of each class, in pixels, by falling score."""
    colors: Mapping[str, Sequence[str]]
    """Colour of each of those detections, in the same order."""


class Detector(Protocol):
    """Anything that names the objects and their colours in images."""

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> Sequence[Detected]:
        """Look at images.

        Args:
            images: RGB images, each of shape (H, W, 3), uint8; sizes may differ.

        Returns:
            One entry an image, in order: a `Detected` or a plain pair ``(objects, colors)`` like it.
        """
        ...


class VQA(Protocol):
    """Anything that answers a question about one image."""

    def __call__(self, image: npt.NDArray[np.uint8], question: str) -> str:
        """Return the answer's text.

        Args:
            image: RGB, uint8 (H, W, 3).
            question: As the benchmark words it.
        """
        ...


class Judge(Protocol):
    """Anything that reads instructions, looks at images and writes a reply; a model that understands images is one."""

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]], prompt: str) -> str:
        """Return the reply's text.

        Args:
            images: RGB, each uint8 (H, W, 3), in the order in which the prompt speaks of them.
            prompt: The whole text.
        """
        ...


def detectors() -> dict[str, EntryPoint]:
    """Return the installed detectors by name, sorted; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=DETECTOR_GROUP), key=lambda point: point.name)}


def load_detector(name: str) -> Detector:
    """Import and build an installed detector.

    Args:
        name: Name of an entry point of the group ``unipic2.detectors``.

    Returns:
        The detector, ready to be called with images.

    Raises:
        ValueError: If no installed package offers a detector of that name.
    """
    installed = detectors()
    if name not in installed:
        message = f"no detector {name!r} is installed; installed: {', '.join(installed) or 'none'}"
        raise ValueError(message)
    detector: Detector = installed[name].load()()
    return detector
