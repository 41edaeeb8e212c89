"""Frozen weights that change, and another VLM at resume, are noticed."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unipic2_train.callbacks.frozen import FrozenProofs
from unipic2_vlm import QwenVLBackbone
from unipic2_vlm.checkpoint import load_model
from unipic2_vlm.frozen import NotFrozenError

TRAINER = SimpleNamespace(loggers=[])


@pytest.fixture
def stage(small_vlm):
    parts = {"vae": nn.Linear(2, 2)}
    frozen = SimpleNamespace(encoder=SimpleNamespace(backbone=QwenVLBackbone(load_model(small_vlm.start))))
    return SimpleNamespace(metaquery=SimpleNamespace(frozen=frozen, untrained=lambda: parts), parts=parts)


def test_what_is_frozen_stays(stage):
    callback = FrozenProofs()
    callback.on_train_start(TRAINER, stage)
    callback.on_train_end(TRAINER, stage)
    with torch.no_grad():
        stage.parts["vae"].weight[0, 0] += 1e-6
    with pytest.raises(NotFrozenError, match="changed in training: vae"):
        callback.on_train_end(TRAINER, stage)


def test_a_resumed_run_needs_its_own_vlm(stage):
    callback = FrozenProofs()
    callback.on_train_start(TRAINER, stage)
    resumed = FrozenProofs()
    resumed.load_state_dict(callback.state_dict())
    resumed.on_train_start(TRAINER, stage)
    with torch.no_grad():
        next(stage.metaquery.frozen.encoder.backbone.parameters()).view(-1)[0] += 1.0
    with pytest.raises(NotFrozenError):
        resumed.on_train_end(TRAINER, stage)
    with pytest.raises(ValueError, match="another VLM"):
        resumed.on_train_start(TRAINER, stage)


def test_a_run_without_a_vlm():
    stage = SimpleNamespace(kontext=SimpleNamespace(frozen=SimpleNamespace()))
    with pytest.raises(ValueError, match="leave the callback out"):
        FrozenProofs().on_train_start(TRAINER, stage)
