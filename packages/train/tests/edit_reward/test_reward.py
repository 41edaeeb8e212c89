import json
import shutil
import threading

import pytest
import torch
from safetensors.torch import save_file

from unipic2_train.rewards.base import RewardRequest, scores_of
from unipic2_train.rewards.edit_reward import EditReward
from unipic2_train.rewards.remote import RemoteReward
from unipic2_train.rewards.server import RewardServer


@pytest.fixture
def folder(system, tmp_path):
    system().export(tmp_path / "reward", {}, write=True)
    return tmp_path / "reward"


@pytest.fixture
def request_(data):
    batch = next(iter(data.train_dataloader()))
    sources, edited = batch.reference_bytes, batch.target_bytes
    return RewardRequest("edit", edited, batch.prompts, batch.keys, batch.meta, sources, edited)


def test_scores_have_the_judges_unit(folder, request_, system, data):
    found = scores_of("edit_reward", EditReward(str(folder), batch=3), request_)
    predicted, _ = system().judged(next(iter(data.train_dataloader())))
    expected = predicted.detach().flatten().double() * data.facts.std + data.facts.mean
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_served_it_scores_the_same_under_its_own_name(folder, request_):
    reward = EditReward(str(folder))
    who = reward.prepare()
    assert who.id == "edit-reward"
    with RewardServer(("127.0.0.1", 0), EditReward(str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = RemoteReward(server.url, who.id, who.revision, batch=3)
        assert remote.prepare() == who
        assert remote.kinds == ("edit",)
        torch.testing.assert_close(remote(request_), reward(request_), rtol=1e-4, atol=1e-5)
        server.shutdown()


def test_another_head_is_another_revision(folder):
    before = EditReward(str(folder)).prepare()
    save_file({"weight": torch.zeros(1, 32), "bias": torch.ones(1)}, folder / "head.safetensors")
    assert EditReward(str(folder)).prepare() != before


def test_a_frozen_vlm_is_told_by_its_weights(system, tmp_path, small_vlm):
    vlm = tmp_path / "vlm"
    shutil.copytree(small_vlm.start, vlm)
    system(train="head").export(tmp_path / "reward", {}, write=True)
    record = json.loads((tmp_path / "reward" / "edit_reward.json").read_text())
    (tmp_path / "reward" / "edit_reward.json").write_text(json.dumps(record | {"vlm": str(vlm)}))
    EditReward(str(tmp_path / "reward")).prepare()
    small_vlm.model.save_pretrained(vlm, max_shard_size="50KB")
    with pytest.raises(ValueError, match="belongs to a VLM with weights"):
        EditReward(str(tmp_path / "reward")).prepare()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "edit_reward.json").unlink(), "is no edit reward: it has no edit_reward.json"),
        (lambda folder: (folder / "edit_reward.json").write_text("{"), "can't be read"),
        (lambda folder: (folder / "edit_reward.json").write_text('{"format": 9, "facts": {}}'), "format 9"),
        (lambda folder: (folder / "head.safetensors").unlink(), "can't be read as safetensors"),
        (
            lambda folder: save_file({"weight": torch.zeros(2, 32)}, folder / "head.safetensors"),
            r"holds \{'weight': \(2, 32\)\}, but a head of this VLM is",
        ),
        (lambda folder: shutil.rmtree(folder / "vlm"), "There is no folder"),
    ],
)
def test_damaged_folders_are_named(folder, spoil, says):
    spoil(folder)
    with pytest.raises(ValueError, match=says):
        EditReward(str(folder)).prepare()


def test_an_edit_without_its_source_has_no_score(folder, request_):
    request_.sources = None
    with pytest.raises(ValueError, match="needs each edit's source"):
        EditReward(str(folder))(request_)
    with pytest.raises(ValueError, match="batch must be 1 or more"):
        EditReward(str(folder), batch=0)
