"""Frozen weights that change, and another VLM at resume, are noticed, in every stage."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unipic2_train import runner
from unipic2_train.callbacks.frozen import FrozenProofs
from unipic2_train.cli import STAGES, _layered
from unipic2_train.kontext import Kontext, KontextConfig
from unipic2_train.system import AdapterConfig
from unipic2_train.tracking import Run
from unipic2_vlm import QwenVLBackbone
from unipic2_vlm.checkpoint import load_model
from unipic2_vlm.frozen import NotFrozenError

TRAINER = SimpleNamespace(loggers=[])


class Tags:
    """A logger that keeps tags."""

    def __init__(self):
        self.tags = {}

    def tag(self, name, value):
        self.tags[name] = value


@pytest.fixture
def stage(small_vlm):
    parts = {"vae": nn.Linear(2, 2).requires_grad_(False)}
    backbone = QwenVLBackbone(load_model(small_vlm.start))
    return SimpleNamespace(metaquery=SimpleNamespace(backbone=backbone, untrained=lambda: parts), parts=parts)


def test_what_is_frozen_stays(stage):
    callback, tags = FrozenProofs(), Tags()
    callback.on_train_start(SimpleNamespace(loggers=[tags]), stage)
    callback.on_train_end(TRAINER, stage)
    assert set(tags.tags) == {"frozen/vlm", "frozen/vae"}
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
        next(stage.metaquery.backbone.parameters()).view(-1)[0] += 1.0
    with pytest.raises(NotFrozenError):
        resumed.on_train_end(TRAINER, stage)
    with pytest.raises(ValueError, match="another VLM"):
        resumed.on_train_start(TRAINER, stage)


@pytest.mark.parametrize("adapter", [None, AdapterConfig(rank=2, alpha=4)])
def test_text_encoders_and_what_an_adapter_adapts_are_proven_too(foundation, transformer, tmp_path, adapter):
    folder = shutil.copytree(foundation, tmp_path / "model")
    transformer.save_pretrained(folder / "transformer")
    stage = SimpleNamespace(kontext=Kontext(KontextConfig(str(folder), adapter=adapter), torch.device("cpu")))
    callback, tags = FrozenProofs(), Tags()
    callback.on_train_start(SimpleNamespace(loggers=[tags]), stage)
    encoders = {"frozen/vae", "frozen/text_encoder", "frozen/text_encoder_2", "frozen/text_encoder_3"}
    assert set(tags.tags) == encoders | ({"frozen/transformer"} if adapter else set())
    moved = next(parameter for parameter in stage.kontext.transformer.parameters() if parameter.requires_grad)
    with torch.no_grad():
        moved.add_(1.0)
    callback.on_train_end(TRAINER, stage)
    wrong = stage.kontext.transformer.proj_out if adapter else stage.kontext.frozen.text.text_encoder_2
    with torch.no_grad():
        next(wrong.parameters()).add_(1e-6)
    with pytest.raises(NotFrozenError, match="transformer" if adapter else "text_encoder_2"):
        callback.on_train_end(TRAINER, stage)


def test_where_nothing_is_frozen_there_is_nothing_to_prove():
    callback, tags = FrozenProofs(), Tags()
    callback.on_train_start(SimpleNamespace(loggers=[tags]), SimpleNamespace())
    callback.on_train_end(TRAINER, SimpleNamespace())
    assert tags.tags == {}


LISTED = """
layers: [pretrain/debug]
trainer:
  callbacks:
    - class_path: unipic2_train.callbacks.frozen.FrozenProofs
    - class_path: unipic2_train.callbacks.export.ExportModel
"""


@pytest.mark.parametrize(
    "recipe", ["pretrain/debug", "finetune/debug", "connector/debug", "edit-rl/debug", "vae/debug", "pretrain/listed"]
)
def test_every_run_has_the_proofs_once_and_before_its_export(recipe, monkeypatch, tmp_path):
    """Whether or not its recipe lists them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "listed.yaml").write_text(LISTED)
    stage, name = recipe.split("/")
    words = _layered(stage, ["--config", "listed.yaml" if name == "listed" else recipe, "--trainer.logger", "false"])
    command = runner.StageCLI(stage, STAGES[stage], words, build=False)
    command.run_record = Run(tmp_path / "run", stage)
    command.config_init = command.parser.instantiate_classes(command.config)
    trainer = command.instantiate_trainer()
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert names.count("FrozenProofs") == 1
    assert names.index("FrozenProofs") < names.index("ExportModel")
