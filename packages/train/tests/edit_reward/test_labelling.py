import json
from pathlib import Path

import numpy as np
import pytest
import torch

from unipic2_data.manifest import Manifest
from unipic2_data.store import SampleStore
from unipic2_train.edit_reward import labelling
from unipic2_train.edit_reward.command import spelled_out
from unipic2_train.rewards.base import Reward
from unipic2_train.rewards.brightness import BrightnessReward
from unipic2_train.rewards.clip import ClipReward
from unipic2_train.rewards.shapes import ShapesReward


class Moody(Reward):
    """Fails on some pictures."""

    def __init__(self, failing: float) -> None:
        self.failing = failing

    def __call__(self, request):
        scores = torch.linspace(0, 1, len(request), dtype=torch.float64)
        scores[: round(self.failing * len(request))] = torch.nan
        return scores


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_edits_stand_in_groups_with_the_scores_of_the_judge(scored):
    manifest = Manifest.load(scored)
    manifest.verify()
    assert manifest.counts == {"train": {"edit": 24}, "validation": {"edit": 12}, "test": {"edit": 12}}
    store = SampleStore(manifest, "train")
    samples = [store.sample("edit", number) for number in range(24)]
    for number, sample in enumerate(samples):
        first = samples[number // 4 * 4]
        assert (sample.texts, sample.meta["shapes"]) == (first.texts, first.meta["shapes"])
        assert np.array_equal(np.array(sample.references[0].pixels), np.array(first.references[0].pixels))
        assert sample.meta["scores"]["judge"] == pytest.approx(np.array(sample.target.pixels).mean() / 255)
        assert sample.meta["made_by"]["steps"] in (1, 2)
    of_group = samples[:4]
    assert len({sample.meta["scores"]["judge"] for sample in of_group}) == 4, "edits of a group differ"
    assert sorted(sample.meta["made_by"]["steps"] for sample in of_group) == [1, 1, 2, 2], "makers take turns"
    scores = np.load(scored / "train/edit-00000.scores.npy")
    assert manifest.generator["scores"] == {"mean": pytest.approx(scores.mean()), "std": pytest.approx(scores.std())}
    assert manifest.generator["judge"]["id"] == "BrightnessReward"


def test_a_stopped_command_goes_on_and_an_edit_does_not_depend_on_its_batch(labelled, scored, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "GROUPS", 2)
    stop = iter([False, True])
    real = labelling._write

    def write(*arguments):
        if next(stop, False):
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(labelling, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        labelled(tmp_path / "out", batch_size=3)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert labelled(tmp_path / "out", batch_size=5).startswith("40 edits made, 8 were there")
    one, other = (SampleStore(Manifest.load(folder), "test") for folder in (scored, tmp_path / "out"))
    for number in range(12):
        ours, theirs = one.read("edit", number), other.read("edit", number)
        assert ours.key == theirs.key
        assert ours.meta["scores"]["judge"] == pytest.approx(theirs.meta["scores"]["judge"], abs=1e-4)


def test_nothing_is_made_twice(labelled, scored):
    before = files(scored)
    assert labelled(scored).startswith("0 edits made, 48 were there")
    assert files(scored) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"judge": ShapesReward()}, r"judged otherwise \(judge: .*BrightnessReward.* then, .*detector a"),
        ({"steps": [2]}, r"steps: \[1, 2\] then, \[2\] now"),
        ({"per_group": 1}, "needs at least 2"),
        ({"samples": 25}, "has 24 edits in its train split, but 25 are asked for"),
        ({"judge": ClipReward("nowhere")}, "scores t2i, no edits"),
    ],
)
def test_what_does_not_fit_is_refused(labelled, scored, changes, says):
    before = files(scored)
    with pytest.raises(ValueError, match=says):
        labelled(scored, **changes)
    assert files(scored) == before


def test_a_failing_judge_leaves_gaps_or_stops(labelled, tmp_path):
    with pytest.raises(ValueError, match=r"failed on 25% of the 8 edits of train/edit-00000\.tar"):
        labelled(tmp_path / "stopped", samples=2, held_out=0, judge=Moody(0.25))
    assert not list((tmp_path / "stopped").rglob("*.tar"))
    labelled(tmp_path / "gaps", samples=5, held_out=0, judge=Moody(0.1))
    store = SampleStore(Manifest.load(tmp_path / "gaps"), "train")
    assert ["judge" in store.read("edit", number).meta["scores"] for number in range(4)] == [False, False, True, True]


def test_equal_scores_teach_nothing(labelled, tmp_path):
    class Same(BrightnessReward):
        def __call__(self, request):
            return super().__call__(request) * 0 + 0.5

    with pytest.raises(ValueError, match=r"all 8 edits got the score 0\.5: vary"):
        labelled(tmp_path / "same", samples=2, held_out=0, judge=Same())


def test_a_folder_with_something_else_is_left_alone(labelled, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt, which `label-edits` has not made"):
        labelled(tmp_path)


def test_processes_share_the_work(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "GROUPS", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "other processes are not done" in labelled(tmp_path / "out")
    monkeypatch.setenv("RANK", "0")
    assert "scores of the train split: mean" in labelled(tmp_path / "out")
    assert sum(shard.samples for shard in Manifest.load(tmp_path / "out").shards) == 48
    assert json.loads((tmp_path / "out" / "label-edits.json").read_text())["per_group"] == 4


def test_the_command_line_is_spelled_out():
    words = ["--judge", "shapes", "--judge.detector", "b", "--steps", "3,24", "--guidance=1.5", "--checkpoint=[a, b]"]
    assert spelled_out(words) == [
        "--judge",
        "unipic2_train.rewards.shapes.ShapesReward",
        "--judge.detector",
        "b",
        "--steps",
        "[3,24]",
        "--guidance=[1.5]",
        "--checkpoint=[a, b]",
    ]
