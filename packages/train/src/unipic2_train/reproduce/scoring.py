"""Scoring a finished run, Kontext or MetaQuery, on the shapes world's test split, prompt by prompt.

All cells of a grid are scored on the same samples from the same noise (a function of sample key and sampling seed), by
detector B, which no training reward uses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from unipic2_train import home
from unipic2_train.reproduce.grid import Measured, Scored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unipic2_dit.transformer import SD3Transformer2DKontextModel
    from unipic2_train.pictures import FrozenPictures
    from unipic2_train.sampler import SamplingConfig

__all__ = ["EMPTY", "JUDGED", "MEASURES", "score_kontext"]

MEASURES = {
    "t2i/exact": "text-to-image, exact scenes",
    "edit/exact": "editing, exact scenes",
    "t2i/accepted": "text-to-image, GenEval's rules",
    "edit/copied": "edits that return their source",
}
JUDGED = {"t2i/judged": "text-to-image, held-out judge", "edit/judged": "editing, held-out judge"}
"""The reward of reinforcement with detector B's eyes: partial credit in [0, 1]."""
EMPTY = "empty_prompts"
"""Key of a configuration: true, and the model is told nothing, which is what any prompt has to beat."""
PICTURES = 6
"""Pictures of each kind on the page."""
BATCH = 100
LORA_FILE = "pytorch_lora_weights.safetensors"


def score_kontext(run: Path, samples: int, measures: Mapping[str, str] = MEASURES) -> Scored:
    """Sample from a run's exported model, or from what it adapted with its adapter, and judge each picture.

    Args:
        run: The run's folder, with ``config.yaml`` and ``export/``.
        samples: Test samples of each kind.
        measures: `MEASURES`, with or without `JUDGED`.

    Returns:
        The measures; prompts of text-to-image are texts (several samples of a text are averaged), edits stand for
        themselves. And pictures of the first samples.
    """
    from unipic2_data.loader import eval_batches
    from unipic2_data.manifest import Manifest
    from unipic2_data.shapes.detect_soft import SoftAlphaDetector
    from unipic2_train.callbacks.grid import GridCell
    from unipic2_train.metrics.shapes import judge_shapes
    from unipic2_train.rewards.base import RewardRequest
    from unipic2_train.rewards.shapes import ShapesReward
    from unipic2_train.sampler import generate

    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    transformer, frozen, sampling = _loaded(run, config["model"])
    manifest, detector = Manifest.load(home.path(config["data"]["path"])), SoftAlphaDetector()
    judge = ShapesReward("b")
    found: dict[str, dict[tuple[str, str], list[float]]] = {name: {} for name in measures}
    pictures: list[GridCell] = []
    for kind in ("t2i", "edit"):
        for number, batch in enumerate(eval_batches(manifest, "test", kind, config["data"]["size"], BATCH, samples)):
            told = replace(batch, prompts=[""] * len(batch)) if config.get(EMPTY) else batch
            images = generate(transformer, frozen, told, sampling)
            if number == 0:
                pictures += GridCell.of_batch(batch, images)[:PICTURES]
            verdicts = judge_shapes(detector, kind, np.asarray(images), batch.meta)
            judged = judge(RewardRequest(kind, images, batch.prompts, batch.keys, batch.meta)).tolist()
            for row, (verdict, meta) in enumerate(zip(verdicts, batch.meta, strict=True)):
                prompt = (batch.prompts[row] if kind == "t2i" else batch.keys[row], meta["task"])
                for name, value in (verdict._asdict() | {"judged": judged[row]}).items():
                    if f"{kind}/{name}" in found:
                        found[f"{kind}/{name}"].setdefault(prompt, []).append(float(value))
    return {name: _measured(values) for name, values in found.items()}, pictures


def _loaded(run: Path, model: dict[str, Any]) -> tuple[SD3Transformer2DKontextModel, FrozenPictures, SamplingConfig]:
    """Return what a run has exported, and how it is sampled."""
    import torch

    from unipic2_dit.checkpoint import load_component, load_lora, load_pipeline
    from unipic2_train.metaquery import frozen_metaquery
    from unipic2_train.sampler import SamplingConfig
    from unipic2_train.system import FrozenParts

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    export = run / "export"
    if "metaquery" in model:
        parts = frozen_metaquery(export, home.path(model["metaquery"]["vlm"]), device)
        transformer = load_component(export, "transformer", device=device)
        return transformer.eval(), parts, SamplingConfig(**model["metaquery"]["sampling"])
    adapted = (export / LORA_FILE).is_file()
    folder = home.path(model["kontext"]["checkpoint"]) if adapted else export
    pipeline = load_pipeline(folder, device=device, use_text=False)
    if adapted:
        load_lora(pipeline, export)
    return pipeline.transformer.eval(), FrozenParts(folder, device), SamplingConfig(**model["kontext"]["sampling"])


def _measured(values: dict[tuple[str, str], list[float]]) -> Measured:
    return Measured(
        prompts=[prompt for prompt, _ in values],
        groups=[group for _, group in values],
        values=[fmean(of_prompt) for of_prompt in values.values()],
    )
