"""GenEval's detector on this machine: Mask2Former for objects, CLIP for colours; extra ``[local]``.

What the official scorer does with mmdetection and open_clip, done with transformers and its checkpoints. It has been
built and tested against small random checkpoints alone: that boxes, names and colours go where they belong is tested;
that it sees as well as the official detector is not. Whoever compares with published scores should first run both on
the same images.

As in the official scorer, colours are told zero-shot from ten, by three sentences each, on the crop of a box whose
background is painted grey; a person has no colour.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipic2_evals.answers import JudgeId
from unipic2_evals.geneval_suite import COLORS, OBJECT_NAMES
from unipic2_evals.pictures import Pixels, file_hash
from unipic2_evals.protocols import Detected

__all__ = ["LocalOptions", "Mask2FormerDetector", "local_detector"]

SENTENCES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
GREY = 0x99
FLOOR = 0.3
"""Official threshold; what scores no more counts nowhere and is dropped before colours are looked at."""
MOST = 16
"""Boxes of a class that count."""


@dataclass(frozen=True)
class LocalOptions:
    """Checkpoints of the two models.

    Attributes:
        detector: Folder or hub id of a Mask2Former for COCO's instances, with its image processor.
        clip: Folder or hub id of a CLIP model, with its processor and tokenizer.
        device: Where they run.
        detector_revision: Branch, tag or commit of a hub id; None = its main branch. Rows and reports hold the commit.
        clip_revision: Likewise.
    """

    detector: str
    clip: str
    device: str = "cpu"
    detector_revision: str | None = None
    clip_revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse a revision of a folder, which has none."""
        for name, revision in ((self.detector, self.detector_revision), (self.clip, self.clip_revision)):
            if revision is not None and Path(name).is_dir():
                message = f"revision {revision} belongs to a hub id, but {name} is a folder: leave it out"
                raise ValueError(message)


class Mask2FormerDetector:
    """A `unipic2_evals.protocols.Detector` made of two transformers checkpoints.

    Args:
        options: What to load.

    Raises:
        ValueError: If torch and transformers are not installed, or the detector does not know COCO's 80 classes.
    """

    def __init__(self, options: LocalOptions) -> None:
        try:
            import transformers
        except ImportError:
            message = "local models need torch and transformers: pip install 'unipic2-evals[local]'"
            raise ValueError(message) from None
        self.device = options.device
        sources = ((options.detector, options.detector_revision), (options.clip, options.clip_revision))
        self.revisions = [_revision(*source) for source in sources]
        """Of detector and CLIP: the hub's commit, or a hash over the weights of a folder."""
        seen, told = (
            {} if Path(name).is_dir() else {"revision": revision}
            for (name, _), revision in zip(sources, self.revisions, strict=True)
        )
        self.processor = transformers.AutoImageProcessor.from_pretrained(options.detector, **seen)
        detector = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(options.detector, **seen)
        if detector.config.num_labels != len(OBJECT_NAMES):
            message = f"{options.detector}: expected {len(OBJECT_NAMES)} classes (COCO instances), got "
            raise ValueError(message + str(detector.config.num_labels))
        self.detector = detector.eval().to(self.device)
        self.clip = transformers.CLIPModel.from_pretrained(options.clip, **told).eval().to(self.device)
        self.clip_processor = transformers.AutoImageProcessor.from_pretrained(options.clip, **told)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(options.clip, **told)
        self._classifiers: dict[str, Any] = {}

    def __call__(self, images: Sequence[Pixels]) -> list[Detected]:
        """Return boxes by class, and a colour for each."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Pixels) -> Detected:
        import torch

        with torch.inference_mode():
            inputs = self.processor(images=image, return_tensors="pt").to(self.device)
            (result,) = self.processor.post_process_instance_segmentation(
                self.detector(**inputs), threshold=FLOOR, target_sizes=[image.shape[:2]], return_binary_maps=True
            )
        found: dict[str, list[tuple[list[float], Any]]] = {}
        segments = sorted(result["segments_info"], key=lambda segment: -segment["score"])
        for segment in segments:
            mask = np.asarray(result["segmentation"][segment["id"]].cpu()) > 0.5
            boxes = found.setdefault(OBJECT_NAMES[segment["label_id"]], [])
            if mask.any() and segment["score"] > FLOOR and len(boxes) < MOST:
                boxes.append(([*_box(mask), float(segment["score"])], mask))
        objects = {name: [box for box, _ in boxes] for name, boxes in found.items() if boxes}
        colors = {name: [self._color(name, image, *pair) for pair in found[name]] for name in objects}
        return Detected(objects, colors)

    def _color(self, name: str, image: Pixels, box: Sequence[float], mask: Any) -> str:
        """Return the likeliest of the ten colours of one object."""
        import torch

        x1, y1, x2, y2 = (int(corner) for corner in box[:4])
        crop = np.where(mask[..., None], image, GREY).astype(np.uint8)[y1:y2, x1:x2]
        with torch.inference_mode():
            inputs = self.clip_processor(images=crop, return_tensors="pt").to(self.device)
            seen = _features(self.clip.get_image_features(**inputs))
            likeness = seen @ self._classifier(name).T  # (1, colours)
        return COLORS[int(likeness.argmax())]

    def _classifier(self, name: str) -> Any:
        """Return one direction a colour: the mean over sentences of normalised text features, normalised."""
        import torch

        if name not in self._classifiers:
            rows = []
            for color in COLORS:
                texts = [sentence.format(color=color, name=name) for sentence in SENTENCES]
                tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
                mean = _features(self.clip.get_text_features(**tokens)).mean(dim=0)
                rows.append(mean / mean.norm())
            self._classifiers[name] = torch.stack(rows)  # (colours, features)
        return self._classifiers[name]


def local_detector(options: LocalOptions) -> tuple[Mask2FormerDetector, JudgeId]:
    """Build the detector, and say who it is: names of both checkpoints, and their commits or hashes of their weights.

    Raises:
        ValueError: See `Mask2FormerDetector`.
    """
    detector = Mask2FormerDetector(options)
    names = " + ".join(Path(name).name for name in (options.detector, options.clip))
    return detector, JudgeId(names, " + ".join(detector.revisions))


def _features(output: Any) -> Any:
    """Return normalised features; newer transformers wrap them in an output object."""
    features = output if hasattr(output, "norm") else output.pooler_output
    return features / features.norm(dim=-1, keepdim=True)


def _box(mask: Any) -> list[float]:
    """Return the box around a mask; right and bottom one past the last pixel."""
    ys, xs = np.nonzero(mask)
    return [float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)]


def _revision(name: str, revision: str | None) -> str:
    """Return the hub's commit, or a hash over the weights of a folder."""
    if not Path(name).is_dir():
        from transformers.utils import cached_file

        return Path(cached_file(name, "config.json", revision=revision or "main")).parent.name  # snapshots/COMMIT
    weights = sorted(path for path in Path(name).iterdir() if path.suffix in {".safetensors", ".bin"})
    return hashlib.sha256("".join(file_hash(path) for path in weights).encode()).hexdigest()[:12]
