"""Validation, rollouts and serving begin alike: the same noise becomes the same picture, whoever asks for it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from unipic2_data.randomness import keyed_normal
from unipic2_dit import flow, sampling
from unipic2_dit.vae import spatial_factor
from unipic2_train.conditioner import ConnectorConfig
from unipic2_train.metaquery import MetaQuery, MetaQueryConfig
from unipic2_train.rl.config import RLConfig, RolloutConfig, WindowConfig
from unipic2_train.rl.layout import Layout
from unipic2_train.rl.rollout import sample
from unipic2_train.sampler import SamplingConfig, generate
from unipic2_unified import Request, UniPic2

CPU = torch.device("cpu")
CONFIG = SamplingConfig(steps=3, guidance=2.0, seed=4)


@pytest.fixture
def model_folder(foundation, transformer, tmp_path):
    """A Kontext checkpoint with weights."""
    folder = shutil.copytree(foundation, tmp_path / "model")
    transformer.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def metaquery(model_folder, small_vlm):
    """A MetaQuery system on top of it."""
    sizes = ConnectorConfig(4, 16, 32, 1, 2, positions="mrope")
    config = MetaQueryConfig(str(model_folder), str(small_vlm.start), connector=sizes, sampling=CONFIG)
    return MetaQuery(config, "both", "both", CPU)


def written_out(transformer, frozen, batch, purpose, config, keys=None, visits=None):
    """Sample without any help, from keyed noise to clean latents."""
    factor = spatial_factor(frozen.vae)
    shape = (4, batch.size[0] // factor, batch.size[1] // factor)
    keys = keys or batch.keys
    positive, negative, references = frozen.conditions(batch, guided=config.guidance > 1)
    state = sampling.initial_state(
        keyed_normal(config.seed, keys, [0] * len(keys) if visits is None else visits, purpose, shape),
        flow.sampling_sigmas(config.steps, frozen.scheduler),
        positive,
        guidance=config.guidance,
        negative=negative,
        references=references,
    )
    return sampling.denoise(transformer, state)


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_validation_to_the_last_bit(frozen, transformer, batch, kind):
    rows = batch(kind, 3)
    expected = frozen.decode(written_out(transformer, frozen, rows, "sampling-noise", CONFIG))
    assert torch.equal(generate(transformer, frozen, rows, CONFIG), expected)


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_rollouts_to_the_last_bit(frozen, transformer, batch, kind):
    rows, layout = batch(kind, 2), Layout(4, 2)
    rollout = RolloutConfig(steps=3, guidance=2.0, window=WindowConfig("none"), micro_batch=4)
    config = RLConfig(rollout=rollout, seed=4)
    found = sample(transformer, frozen, rows, layout, config, 0)
    groups = layout.group_of[layout.own].tolist()
    twice = replace(
        rows,
        keys=[rows.keys[group] for group in groups],
        prompts=[rows.prompts[group] for group in groups],
        reference_bytes=None if rows.reference_bytes is None else rows.reference_bytes[groups],
    )
    named = {"keys": layout.image_keys(rows), "visits": rows.visits[groups]}
    assert torch.equal(found.latents, written_out(transformer, frozen, twice, "rollout-start", CONFIG, **named))


def served(model, batch):
    """Return the pictures that a server makes of a batch's prompts from validation's noise, uint8 (B, H, W, 3)."""
    sources = [None] * len(batch)
    if batch.reference_bytes is not None:
        sources = [Image.fromarray(each.numpy()) for each in batch.reference_bytes]
    requests = [
        Request(prompt, source, size=batch.size, steps=CONFIG.steps, guidance=CONFIG.guidance)
        for prompt, source in zip(batch.prompts, sources, strict=True)
    ]
    state = model.start([model.prepare(request) for request in requests])
    noise = keyed_normal(CONFIG.seed, batch.keys, [0] * len(batch), "sampling-noise", state.latents.shape[1:])
    state = replace(state, latents=noise)
    while not sampling.finished(state):
        state = model.step(state)
    return np.stack([np.asarray(picture) for picture in model.decode(state.latents)]).astype(int)


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_a_server_makes_the_picture_that_validation_saw(model_folder, frozen, transformer, batch, kind):
    rows = batch(kind, 3)
    seen = generate(transformer, frozen, rows, CONFIG).numpy().astype(int)
    assert np.abs(served(UniPic2.from_pretrained(model_folder), rows) - seen).max() <= 1


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_a_server_makes_the_picture_that_validation_saw_of_a_unified_model(metaquery, batch, small_vlm, tmp_path, kind):
    rows = batch(kind, 3)
    metaquery.export(tmp_path / "export", {}, write=True)
    model = UniPic2.from_pretrained(tmp_path / "export", vlm=small_vlm.start)
    assert np.abs(served(model, rows) - metaquery.generate(rows).numpy().astype(int)).max() <= 1
