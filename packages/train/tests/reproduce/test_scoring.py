"""Scoring a finished run: every test sample judged, the same for all cells, adapters with what they adapt, and VLMs."""

import numpy as np
import pytest
import torch
import yaml

from unipic2_train import export
from unipic2_train.conditioner import ConnectorConfig
from unipic2_train.metaquery import MetaQuery, MetaQueryConfig
from unipic2_train.reproduce.scoring import JUDGED, MEASURES, score_kontext
from unipic2_train.system import AdapterConfig, build_transformer


@pytest.fixture
def run(transformer, frozen, shapes, tmp_path):
    """A run's folder as a stage leaves it."""
    values = export.trained_values(transformer)
    export.save_model(tmp_path / "run" / "export", transformer, values, frozen, {})
    config = {
        "data": {"path": str(shapes), "size": 32},
        "model": {"kontext": {"checkpoint": "unused", "sampling": {"steps": 2, "guidance": 1.5, "seed": 0}}},
    }
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run"


def test_every_test_sample_is_judged(run):
    scores, pictures = score_kontext(run, samples=10)
    assert list(scores) == list(MEASURES)
    for measured in scores.values():
        assert len(measured["prompts"]) == len(measured["groups"]) == len(measured["values"])
        assert all(0 <= value <= 1 for value in measured["values"])
    assert len(set(scores["edit/exact"]["prompts"])) == 10
    assert scores["t2i/exact"]["prompts"] == scores["t2i/accepted"]["prompts"]
    assert [len(cell.pictures) for cell in pictures] == [1] * 6 + [3] * 6


def test_the_held_out_judge_gives_partial_credit(run):
    scores, _ = score_kontext(run, samples=10, measures=MEASURES | JUDGED)
    for task in ("t2i", "edit"):
        exact, judged = (scores[f"{task}/{name}"] for name in ("exact", "judged"))
        assert judged["prompts"] == exact["prompts"]
        assert all(0 <= value <= 1 for value in judged["values"])
    assert any(0 < value < 1 for task in ("t2i", "edit") for value in scores[f"{task}/judged"]["values"])


def test_an_adapter_is_scored_on_what_it_adapts(run, tmp_path):
    """A new adapter changes nothing, so its pictures are those of the model."""
    adapted = tmp_path / "adapted"
    adapted.mkdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["kontext"]["checkpoint"] = str(run / "export")
    (adapted / "config.yaml").write_text(yaml.safe_dump(config))
    model = build_transformer(run / "export", "checkpoint", adapter=AdapterConfig(4, 4))
    export.save_adapter(adapted / "export", export.trained_values(model), 4, {})
    pictures, others = (score_kontext(folder, samples=6)[1] for folder in (run, adapted))
    for one, other in zip(pictures, others, strict=True):
        for first, second in zip(one.pictures, other.pictures, strict=True):
            assert np.abs(first.astype(int) - second.astype(int)).max() <= 1


def test_a_model_behind_a_vlm_is_scored_with_and_without_its_prompts(run, small_vlm, tmp_path):
    vlm, folder = str(small_vlm.start), tmp_path / "read"
    config = MetaQueryConfig(str(run / "export"), vlm, connector=ConnectorConfig(4, 16, 32, 1, 2))
    MetaQuery(config, "both", "both", torch.device("cpu")).export(folder / "export", {}, write=True)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["model"] = {"metaquery": {"vlm": vlm, "sampling": {"steps": 2, "guidance": 1.0, "seed": 0}}}
    shown = []
    for empty in (False, True):
        (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"empty_prompts": empty}))
        scores, pictures = score_kontext(folder, samples=6)
        assert set(scores) == set(MEASURES)
        assert all(scores["t2i/exact"]["prompts"]), "samples are named by their own prompts"
        shown.append(np.stack([cell.pictures[-1] for cell in pictures if len(cell.pictures) == 1]))
    assert (shown[0] != shown[1]).any()
