"""A tiny editing model, its edits scored by a judge that any model moves, and a reward that is trained on them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unipic2_train.rewards.brightness import BrightnessReward


@pytest.fixture(scope="session")
def checkpoint(foundation: Path, frozen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose transformer is new but for its output."""
    from unipic2_train import export
    from unipic2_train.system import build_transformer

    transformer = build_transformer(foundation, "scratch", seed=1)
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("model") / "kontext"
    export.save_model(folder, transformer, export.trained_values(transformer), frozen, {})
    return folder


@pytest.fixture(scope="session")
def labelled(checkpoint: Path, shapes: Path):
    """Return a function that labels into a folder."""
    from unipic2_train.edit_reward.command import label_edits

    def make(out: Path, **changes) -> str:
        options = {"samples": 6, "held_out": 3, "per_group": 4, "steps": [1, 2], "judge": BrightnessReward(), "seed": 3}
        return label_edits([str(checkpoint)], str(shapes), str(out), **{**options, **changes})

    return make


@pytest.fixture(scope="session")
def scored(labelled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of scored edits: six groups of four to train on, three each in validation and test."""
    out = tmp_path_factory.mktemp("scored") / "edits"
    labelled(out)
    return out


@pytest.fixture
def data(scored: Path):
    """The data module, as one process sees it."""
    from unipic2_train.edit_reward.data import ScoredEdits

    made = ScoredEdits(str(scored), global_batch=8, seed=5)
    made.trainer = SimpleNamespace(world_size=1, global_rank=0, accumulate_grad_batches=1, global_step=0)
    made.setup("fit")
    return made


@pytest.fixture
def system(small_vlm, data):
    """Return a function that builds the system of a configuration, its head filled."""
    from unipic2_train.edit_reward.system import EditRewardConfig, EditRewardSystem

    def build(**config) -> EditRewardSystem:
        made = EditRewardSystem(EditRewardConfig(str(small_vlm.start), **config), data.facts, torch.device("cpu"))
        made.network.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
        return made

    return build
