"""Workflow ``foundation``: what stands in for downloaded weights in the small presets, made offline in minutes.

It trains a small autoencoder on shapes (stage ``vae``), writes frozen seeded text encoders over the world's grammar and
the scheduler, and leaves a folder in the official layout. Its ``transformer/`` holds a config without weights: what
``init: scratch`` builds.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

from unipic2_data.shapes.grammar import vocabulary
from unipic2_dit.transformer import SD3Transformer2DKontextModel
from unipic2_train import cli
from unipic2_train.workflows.text import TextConfig, write_text_encoders

__all__ = ["build"]


def build(target: Path, vae: str, text: dict[str, Any], scheduler: dict[str, Any], transformer: dict[str, Any]) -> None:
    """Write a foundation folder.

    Args:
        target: Folder to make.
        vae: Recipe of the ``vae`` stage.
        text: Values of ``TextConfig``.
        scheduler: Values of the flow-matching scheduler's config, its shift above all.
        transformer: Config of the transformer that runs on this foundation trains from scratch.
    """
    text_config = TextConfig(**text)
    target.mkdir(parents=True)
    run = cli.run_stage("vae", ["--config", vae, "--run_dir", str(target / "vae-run"), "--trainer.logger", "false"])
    shutil.move(run / "export", target / "vae")
    shutil.rmtree(run)
    write_text_encoders(target, vocabulary(), text_config)
    FlowMatchEulerDiscreteScheduler(**scheduler).save_pretrained(target / "scheduler")
    config = {"joint_attention_dim": text_config.t5_width, "pooled_projection_dim": 2 * text_config.clip_width}
    _write_transformer_config(target / "transformer", {**transformer, **config})


def _write_transformer_config(folder: Path, values: dict[str, Any]) -> None:
    config = SD3Transformer2DKontextModel.from_config({**values, "num_layers": 0, "dual_attention_layers": []}).config
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"_class_name": SD3Transformer2DKontextModel.__name__, **dict(config), **values}, indent=2)
    )
