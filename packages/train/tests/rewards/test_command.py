"""``unipic2-train reward-server`` as it is typed, and the short names of rewards."""

import importlib
import inspect

import pytest

from unipic2_train import cli
from unipic2_train.rewards import SHORT_NAMES
from unipic2_train.rewards.base import Reward
from unipic2_train.rewards.command import spelled_out
from unipic2_train.rewards.server import RewardServer


@pytest.mark.parametrize("path", SHORT_NAMES.values(), ids=SHORT_NAMES)
def test_short_names(path):
    module, _, cls = path.rpartition(".")
    found = getattr(importlib.import_module(module), cls)
    assert issubclass(found, Reward)
    assert not inspect.isabstract(found)


def test_spelled_out():
    words = ["--reward", "clip", "--reward.model", "clip", "--port=1"]
    assert spelled_out(words) == ["--reward", SHORT_NAMES["clip"], "--reward.model", "clip", "--port=1"]
    assert spelled_out(["--reward=shapes"]) == [f"--reward={SHORT_NAMES['shapes']}"]
    assert spelled_out(["--reward", "my_package.MyReward"]) == ["--reward", "my_package.MyReward"]


@pytest.fixture
def typed(monkeypatch):
    """Return a function that runs a command line and returns the servers that would have run."""
    started = []

    def stop(server):
        started.append((server.reward, server.server_address[0], server.max_bytes))
        raise KeyboardInterrupt

    monkeypatch.setattr(RewardServer, "serve_forever", stop)

    def run(*words):
        cli._main(["reward-server", *words])
        return started

    return run


@pytest.mark.parametrize(
    "reward", [["--reward", "preservation"], ["--reward=unipic2_train.rewards.preservation.PreservationReward"]]
)
def test_a_command_line(typed, capsys, reward):
    ((served, host, max_bytes),) = typed(
        *reward, "--reward.measure", "psnr", "--port", "18237", "--max-megabytes=2", "--waiting", "3"
    )
    assert (type(served).__name__, served.measure) == ("PreservationReward", "psnr")
    assert (host, max_bytes) == ("127.0.0.1", 2 * 2**20)
    said = capsys.readouterr().out
    assert "PreservationReward (unipic2-train" in said
    assert "http://127.0.0.1:18237, for edit; Ctrl-C stops it" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--reward", "nothing"], "nothing"),
        (["--reward", "preservation", "--reward.measure", "mse"], "measure"),
        ([], "reward"),
    ],
)
def test_what_can_not_be_served(typed, capsys, words, says):
    with pytest.raises(SystemExit) as ended:
        typed(*words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
