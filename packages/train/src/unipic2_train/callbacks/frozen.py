"""Proof that a stage trained nothing but what it was to train, the VLM's understanding above all (claim C6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from unipic2_train.encoding import weights_hash
from unipic2_vlm import FrozenProof
from unipic2_vlm.frozen import NotFrozenError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["FrozenProofs"]


class FrozenProofs(Callback):
    """Compare the VLM, weights and logits, and all other frozen weights bit by bit at the end with the start.

    A run that is resumed has to have the very VLM that it began with.
    """

    def __init__(self) -> None:
        self._began_with: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the proofs.

        Raises:
            ValueError: There is no VLM, or the resumed run began with another one.
        """
        system = _system(pl_module)
        self._vlm = FrozenProof.of(system.frozen.encoder.backbone)
        self._hashes = {name: weights_hash(part) for name, part in system.untrained().items()}
        began_with = self._began_with or self._vlm.digest
        if began_with != self._vlm.digest:
            msg = (
                f"the checkpoint was trained with another VLM ({began_with[:12]}) than the recipe now names "
                f"({self._vlm.digest[:12]}): resume with the VLM that the run began with"
            )
            raise ValueError(msg)
        self._began_with = self._vlm.digest
        for logger in trainer.loggers:
            logger.tag("frozen/vlm", self._vlm.digest)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Verify them.

        Raises:
            NotFrozenError: Something that is frozen has changed.
        """
        system = _system(pl_module)
        self._vlm.verify(system.frozen.encoder.backbone)
        now = {name: weights_hash(part) for name, part in system.untrained().items()}
        changed = [name for name, value in self._hashes.items() if now.get(name) != value]
        if changed:
            msg = f"frozen weights have changed in training: {', '.join(changed)}"
            raise NotFrozenError(msg)
        rank_zero_info(f"untouched, bit by bit: vlm, {', '.join(now)}")

    def state_dict(self) -> dict[str, Any]:
        """Return which VLM the run began with."""
        return {"vlm": self._began_with}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take which VLM the run began with."""
        self._began_with = state_dict["vlm"]


def _system(pl_module: Any) -> Any:
    """Return what the stage trains: a ``MetaQuery``, or a ``Kontext`` behind a VLM."""
    system = getattr(pl_module, "metaquery", None) or pl_module.kontext
    if not hasattr(system.frozen, "encoder"):
        msg = "FrozenProofs is about a VLM, and this run has text encoders: leave the callback out"
        raise ValueError(msg)
    return system
