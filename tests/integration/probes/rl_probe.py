"""A judge for tests that sees what brightness costs."""

from torch import Tensor

from unipic2_train.rewards.base import Reward, RewardRequest

__all__ = ["Darkness"]


class Darkness(Reward):
    """The opposite of the reward `brightness`: whatever pleases that displeases this."""

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture."""
        return 1 - request.pictures.double().mean((1, 2, 3)) / 255
