"""A tiny foundation and tiny data of the real kind, made once; they load through the code that real weights use."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

TRANSFORMER = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "pos_embed_max_size": 16,
    "dual_attention_layers": [],
    "qk_norm": "rms_norm",
}

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def foundation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foundation folder whose autoencoder is untrained."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from unipic2_data.shapes.grammar import vocabulary
    from unipic2_train.objectives.autoencoder import AutoencoderConfig
    from unipic2_train.workflows import foundation as workflow
    from unipic2_train.workflows.text import TextConfig, make_text_encoders, write_text_encoders

    folder = tmp_path_factory.mktemp("foundation")
    AutoencoderConfig([8, 8, 8], 4).build(0).save_pretrained(folder / "vae")
    config = TextConfig(clip_width=16, t5_width=32, max_tokens=12)
    write_text_encoders(folder, make_text_encoders(vocabulary(), config))
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0).save_pretrained(folder / "scheduler")
    widths = {"joint_attention_dim": 32, "pooled_projection_dim": 32}
    workflow._write_transformer_config(folder / "transformer", TRANSFORMER | widths)
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of the shapes world."""
    from unipic2_data.shapes.world import ShapesConfig, write_shapes

    counts = {split: {"t2i": 24, "edit": 24} for split in ("train", "validation", "test", "heldout")}
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, ShapesConfig(32, 0, counts))
    return folder


@pytest.fixture
def batch(shapes: Path):
    """Return eight samples of a kind from the test split."""
    from unipic2_data.loader import eval_batches
    from unipic2_data.manifest import Manifest

    def read(kind: str = "t2i", count: int = 8):
        return next(eval_batches(Manifest.load(shapes), "test", kind, 32, count, count))

    return read


@pytest.fixture(scope="session")
def frozen(foundation: Path):
    """The foundation's frozen parts."""
    from unipic2_train.system import FrozenParts

    return FrozenParts(foundation)


@pytest.fixture
def transformer(foundation: Path):
    """A new transformer whose output depends on its input (the projection that starts at zero is filled)."""
    from unipic2_train.system import build_transformer

    made = build_transformer(foundation, "scratch", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.fixture(scope="session")
def small_vlm(tmp_path_factory: pytest.TempPathFactory):
    """A small vision-language model with random weights over the words of the quick world; its folder is `start`."""
    from unipic2_train.vlm.system import SmallVlm
    from unipic2_vlm.small import SmallVlmConfig

    sizes = SmallVlmConfig(width=32, num_layers=2, num_heads=2, vision_width=16, vision_layers=1, vision_heads=2)
    start = tmp_path_factory.mktemp("vlm") / "start"
    return SmallVlm.begin(start, sizes, torch.device("cpu"), write=True, barrier=lambda: None)
