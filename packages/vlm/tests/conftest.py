"""Tiny real models for the tests of the VLM package."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.utils import logging

torch.set_num_threads(1)
logging.disable_progress_bar()

GOLDEN = Path(__file__).parents[3] / "tests" / "golden" / "metaquery"
WORDS = ["red", "blue", "circle", "square", "what", "colour", "is", "the", "make", "it", "and", "left", "of"]


@pytest.fixture(scope="session")
def parity_folder():
    """Folder of the VLM that made the reference tensors."""
    return GOLDEN / "vlm"


@pytest.fixture(scope="session")
def parity():
    """What the released implementation made, and the queries that it used."""
    queries = load_file(GOLDEN / "conditioner" / "diffusion_pytorch_model.safetensors")["meta_queries"]
    return {**load_file(GOLDEN / "vlm_tensors.safetensors"), "queries": queries}


@pytest.fixture
def backbone(parity_folder):
    """The parity VLM, freshly loaded."""
    from unipic2_vlm.backbone import QwenVLBackbone

    return QwenVLBackbone.from_pretrained(parity_folder)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """A small VLM over a few words. Tests that change it copy it first (``small_copy``)."""
    from unipic2_vlm.small import SmallVlmConfig, write_small_vlm

    folder = tmp_path_factory.mktemp("vlm")
    write_small_vlm(folder, WORDS, SmallVlmConfig(width=32, num_layers=3, num_heads=2, vision_width=16, vision_heads=2))
    return folder


@pytest.fixture
def small_copy(small_folder, tmp_path):
    """A copy of the small VLM that a test may damage."""
    return Path(shutil.copytree(small_folder, tmp_path / "vlm"))


@pytest.fixture
def small(small_folder):
    """The small VLM behind prompts, for a DiT whose patches are 8 px wide; freshly loaded."""
    from unipic2_vlm.queries import QueryEncoder

    return QueryEncoder.from_pretrained(small_folder, 8)


@pytest.fixture
def understanding(small):
    """The small VLM, for questions."""
    from unipic2_vlm.understanding import Understanding

    return Understanding(small.backbone, small.processor)


@pytest.fixture
def picture():
    """Draw a seeded picture without any symmetry."""

    def draw(seed=0, width=32, height=32):
        rng = torch.Generator().manual_seed(seed)
        return Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=rng).numpy())

    return draw
