"""Tiny real models for the tests of the connector package."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

torch.set_num_threads(1)

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"


@pytest.fixture(scope="session")
def released_folder():
    """A checkpoint folder whose ``conditioner/`` the released code wrote."""
    return GOLDEN / "metaquery"


@pytest.fixture(scope="session")
def parity():
    """What the released implementation made."""
    files = ("metaquery/vlm_tensors.safetensors", "parity/tensors.safetensors")
    return {name: value for file in files for name, value in load_file(GOLDEN / file).items()}


@pytest.fixture
def folder(released_folder, tmp_path):
    """A copy of the released folder that a test may damage."""
    shutil.copytree(released_folder / "conditioner", tmp_path / "checkpoint" / "conditioner")
    return tmp_path / "checkpoint"


@pytest.fixture
def conditioner(released_folder):
    """The released conditioner, freshly loaded."""
    from unipic2_connector.checkpoint import load_conditioner

    return load_conditioner(released_folder)


@pytest.fixture
def build():
    """Make a seeded conditioner with changed arguments."""
    from unipic2_connector.connector import StableDiffusion3Conditioner

    encoder = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes = {"num_queries": 5, "llm_hidden_size": 16, "pooled_projection_dim": 12, "joint_attention_dim": 20}

    def make(seed=0, **overrides):
        torch.manual_seed(seed)
        return StableDiffusion3Conditioner(**{"connector_config": encoder, **sizes, **overrides})

    return make
