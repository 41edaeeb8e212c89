"""The small preset (128 px, ~100M parameters) is built and takes two optimiser steps, here on a CPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

QUIET = ("--trainer.logger", "false")


@pytest.mark.heavy
def test_small_preset_takes_two_steps(workshop):
    from unipic2_data.cli import shapes

    data = workshop.folder / "shapes"
    shapes(data, size=128, t2i=16, edit=16, validation=2, test=2, heldout=2, workers=1)
    # The shipped recipe with everything that makes it small; only where it runs and how much it looks at changes.
    run = workshop.run_here(
        "pretrain",
        *("--config", "pretrain/small", "--config", "hardware/cpu", "--config", "debug/seconds"),
        *("--model.kontext.checkpoint", _untrained_foundation(workshop.folder, data), "--data.path", data),
        *("--trainer.max_steps", 2, "--trainer.val_check_interval", 2, "--data.num_workers", 0),
        *("--data.global_batch", 2, "--data.validation_samples", 2, "--run_dir", workshop.folder / "small", *QUIET),
    )
    config = json.loads((run / "export" / "transformer" / "config.json").read_text())
    assert config["num_layers"] == 12
    weights = run / "export" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert 90e6 < weights.stat().st_size / 4 < 140e6  # parameters
    assert json.loads((run / "scores.json").read_text())["metrics"]["test/t2i/exact"] <= 1.0


def _untrained_foundation(folder: Path, data: Path) -> Path:
    """Make the small foundation by its shipped recipe, autoencoder and text encoders after two steps each."""
    from unipic2_train import recipes
    from unipic2_train.workflows import foundation

    recipe = folder / "vae.yaml"
    changes = {
        "layers": ["vae/small", "hardware/cpu"],
        "data": {"path": str(data), "global_batch": 2, "validation_samples": 2, "num_workers": 0},
        "trainer": {"max_steps": 2, "val_check_interval": 2},
    }
    recipe.write_text(yaml.safe_dump(changes))
    made = recipes.resolve("home/small")["foundation"] | {"vae": str(recipe)}
    made["text"] |= {"reading": {"steps": 2, "texts": 100}}
    foundation.build(folder / "foundation", **made)
    return folder / "foundation"
