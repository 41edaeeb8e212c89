"""Tiny real models for the tests of the DiT package."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

torch.set_num_threads(1)

PARITY = Path(__file__).parents[3] / "tests" / "golden" / "parity"


def _tiny_checkpoint_module():
    spec = importlib.util.spec_from_file_location("tiny_checkpoint", Path(__file__).with_name("tiny_checkpoint.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def parity_folder():
    """Folder of the reference tensors and of the checkpoint that made them."""
    return PARITY


@pytest.fixture(scope="session")
def parity_tensors():
    """What the released implementation made."""
    return load_file(PARITY / "tensors.safetensors")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A complete tiny checkpoint folder. Tests that change it copy it first (``checkpoint_copy``)."""
    folder = tmp_path_factory.mktemp("checkpoint")
    _tiny_checkpoint_module().build().save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint_copy(checkpoint, tmp_path):
    """A copy of the checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def pipeline(checkpoint):
    """The checkpoint as a pipeline, freshly loaded."""
    from unipic2_dit.checkpoint import load_pipeline

    loaded = load_pipeline(checkpoint)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def transformer():
    """The parity transformer, freshly loaded."""
    from unipic2_dit.transformer import SD3Transformer2DKontextModel

    return SD3Transformer2DKontextModel.from_pretrained(PARITY / "checkpoint" / "transformer").eval()


@pytest.fixture
def picture():
    """A 16x16 px picture that is not symmetric in any way."""
    pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    return Image.fromarray(pixels.numpy())
