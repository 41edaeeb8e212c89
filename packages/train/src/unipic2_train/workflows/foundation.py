"""Workflow ``foundation``: what stands in for downloaded weights in the small presets, made offline in minutes.

The folder ``home:PRESET/foundation`` has what a Kontext run starts from, ``home:PRESET/vlm`` the vision-language model.

It trains a small autoencoder on shapes (stage ``vae``) and small text encoders on the world's grammar, writes them and
the scheduler, and leaves a folder in the official layout. Its ``transformer/`` holds a config without weights: what
``init: scratch`` builds.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

from unipic2_data.shapes.grammar import FACTS, example_readings, vocabulary
from unipic2_dit.transformer import SD3Transformer2DKontextModel
from unipic2_train import cli
from unipic2_train.workflows.reading import UNSEEN, ReadingConfig, teach
from unipic2_train.workflows.text import TextConfig, make_text_encoders, write_text_encoders

__all__ = ["build", "build_vlm"]


def build(target: Path, vae: str, text: dict[str, Any], scheduler: dict[str, Any], transformer: dict[str, Any]) -> None:
    """Write a foundation folder.

    Args:
        target: Folder to make.
        vae: Recipe of the ``vae`` stage.
        text: Values of ``TextConfig``.
        scheduler: Values of the flow-matching scheduler's config, its shift above all.
        transformer: Config of the transformer that runs on this foundation trains from scratch.
    """
    text_config = _text_config(text)
    target.mkdir(parents=True)
    run = cli.run_stage("vae", ["--config", vae, "--run_dir", str(target / "vae-run"), "--trainer.logger", "false"])
    shutil.move(run / "export", target / "vae")
    shutil.rmtree(run)
    _write_text(target, text_config)
    FlowMatchEulerDiscreteScheduler(**scheduler).save_pretrained(target / "scheduler")
    config = {"joint_attention_dim": text_config.t5_width, "pooled_projection_dim": 2 * text_config.clip_width}
    _write_transformer_config(target / "transformer", {**transformer, **config})


def build_vlm(target: Path, vlm: str) -> None:
    """Write the folder of a small vision-language model, in the layout of Hugging Face.

    Args:
        target: Folder to make.
        vlm: Recipe of the ``vlm`` stage.
    """
    run_dir = target.with_name(f"{target.name}-run")
    shutil.rmtree(run_dir, ignore_errors=True)  # what a killed process left
    try:
        run = cli.run_stage("vlm", ["--config", vlm, "--run_dir", str(run_dir), "--trainer.logger", "false"])
        shutil.move(run / "export", target)
        shutil.copy2(run / "scores.json", target)
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


def _text_config(values: dict[str, Any]) -> TextConfig:
    reading = values.get("reading", {})
    return TextConfig(**{**values, "reading": None if reading is None else ReadingConfig(**reading)})


def _write_text(target: Path, config: TextConfig) -> None:
    encoders = make_text_encoders(vocabulary(), config)
    if config.reading is not None:
        readings = list(example_readings(config.reading.texts + UNSEEN, config.seed))
        num_values = [len(values) for values in FACTS.values()]
        right = teach(encoders, readings, num_values, config.reading, config.seed)
        clip, clip_2, t5 = (f"{share:.3f}" for share in right)
        print(f"text encoders read {clip} (CLIP), {clip_2} (CLIP 2) and {t5} (T5) of {UNSEEN} new texts without error")  # noqa: T201
    write_text_encoders(target, encoders)


def _write_transformer_config(folder: Path, values: dict[str, Any]) -> None:
    config = SD3Transformer2DKontextModel.from_config({**values, "num_layers": 0, "dual_attention_layers": []}).config
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"_class_name": SD3Transformer2DKontextModel.__name__, **dict(config), **values}, indent=2)
    )
