"""Scoring a finished run: every test sample judged, the same for all cells, adapters with what they adapt."""

import numpy as np
import pytest
import yaml

from unipic2_train import export
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
