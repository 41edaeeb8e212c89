"""The small preset (128 px, ~100M parameters) is built and takes two optimiser steps, here on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LIGHTNING = Path(sys.executable).with_name("lightning")


@pytest.mark.slow
def test_small_preset_takes_two_steps(tmp_path):
    shapes = tmp_path / "shapes"
    sizes = {"t2i": 16, "edit": 16, "validation": 2, "test": 2, "heldout": 2, "workers": 1}
    command = [Path(sys.executable).with_name("unipic2-data"), "shapes", shapes, "--size", "128"]
    subprocess.run([*command, *(part for k, v in sizes.items() for part in (f"--{k}", str(v)))], check=True)
    foundation = _untrained_foundation(tmp_path, shapes)
    # The shipped recipe with everything that makes it small; only where it runs and how much it looks at changes.
    run = tmp_path / "run"
    arguments = [
        "run",
        "pretrain",
        "--config",
        "pretrain/small",
        "--config",
        "hardware/cpu",
        "--config",
        "debug/seconds",
    ]
    arguments += ["--model.kontext.checkpoint", foundation, "--data.path", shapes, "--run_dir", run]
    arguments += ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--data.num_workers", "0"]
    arguments += ["--data.global_batch", "2", "--data.validation_samples", "2", "--trainer.logger", "false"]
    subprocess.run([LIGHTNING, *arguments], check=True)
    config = json.loads((run / "export" / "transformer" / "config.json").read_text())
    assert config["num_layers"] == 12
    weights = run / "export" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert 90e6 < weights.stat().st_size / 4 < 140e6  # parameters
    assert json.loads((run / "scores.json").read_text())["metrics"]["test/t2i/exact"] <= 1.0


def _untrained_foundation(tmp_path: Path, shapes: Path) -> Path:
    """Make the small foundation by its shipped recipe, autoencoder and text encoders after two steps each."""
    recipe = tmp_path / "vae.yaml"
    changes = {
        "layers": ["vae/small", "hardware/cpu"],
        "data": {"path": str(shapes), "global_batch": 2, "validation_samples": 2, "num_workers": 0},
        "trainer": {"max_steps": 2, "val_check_interval": 2},
    }
    recipe.write_text(yaml.safe_dump(changes))
    target = tmp_path / "foundation"
    code = (
        "import sys; from pathlib import Path; from unipic2_train import recipes; "
        "from unipic2_train.workflows import foundation; "
        "made = recipes.resolve('home/small')['foundation'] | {'vae': sys.argv[2]}; "
        "made['text'] |= {'reading': {'steps': 2, 'texts': 100}}; "
        "foundation.build(Path(sys.argv[1]), **made)"
    )
    subprocess.run([sys.executable, "-c", code, target, recipe], check=True)
    return target
