"""The command ``unipic2-train reward-server``."""

from collections.abc import Sequence
from contextlib import suppress

from jsonargparse.typing import PositiveInt

from unipic2_train.rewards import SHORT_NAMES
from unipic2_train.rewards.base import Reward
from unipic2_train.rewards.server import RewardServer

__all__ = ["reward_server", "spelled_out"]


def reward_server(
    reward: Reward,
    port: PositiveInt = 8200,
    host: str = "127.0.0.1",
    max_megabytes: PositiveInt = 64,
    waiting: PositiveInt = 16,
) -> str:
    """Serve a reward over HTTP, for unipic2_train.rewards.remote.RemoteReward.

    GET /health says who scores; POST /score takes pictures as JSON. There are no keys and no TLS: open it only to a
    network that you trust.

    Args:
        reward: Class path of the reward, or its short name; what it takes is given as --reward.KEY VALUE.
        port: Where it listens.
        host: Address it listens on; 0.0.0.0 for all.
        max_megabytes: Largest request.
        waiting: Requests held at a time; more are told to try again.
    """
    with RewardServer((host, port), reward, max_megabytes * 2**20, waiting) as server:
        print(f"{server.who} at {server.url}, for {', '.join(reward.kinds)}; Ctrl-C stops it", flush=True)  # noqa: T201
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return "stopped"


def spelled_out(words: Sequence[str], option: str = "--reward") -> list[str]:
    """Return a command line with class paths in place of short names behind ``option``."""
    found = list(words)
    for place, word in enumerate(found):
        if word.startswith(f"{option}="):
            name = word.removeprefix(f"{option}=")
            found[place] = f"{option}={SHORT_NAMES.get(name, name)}"
        elif place and found[place - 1] == option:
            found[place] = SHORT_NAMES.get(word, word)
    return found
