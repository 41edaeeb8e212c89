"""Proof that a stage trained nothing but what it was to train, the VLM's understanding above all (claim C6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from unipic2_train.encoding import frozen_hash
from unipic2_vlm import FrozenProof
from unipic2_vlm.frozen import NotFrozenError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["FrozenProofs"]


class FrozenProofs(Callback):
    """Compare all frozen weights, and the logits of a VLM, bit by bit at the end with the start.

    Every run has it, before the callbacks of its recipe unless that lists it, so that nothing is exported of a run that
    fails. A run that is resumed has to have the very VLM that it began with.
    """

    def __init__(self) -> None:
        self._began_with: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the proofs.

        Raises:
            ValueError: The resumed run began with another VLM.
        """
        system = _system(pl_module)
        backbone = None if system is None else system.backbone
        self._vlm = None if backbone is None else FrozenProof.of(backbone)
        self._hashes = _hashes(system)
        if self._vlm is not None:
            self._check_vlm(self._vlm.digest)
        digests = self._hashes if self._vlm is None else {**self._hashes, "vlm": self._vlm.digest}
        for logger in trainer.loggers:
            for name, digest in digests.items():
                logger.tag(f"frozen/{name}", digest)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Verify them.

        Raises:
            NotFrozenError: Something that is frozen has changed.
        """
        system = _system(pl_module)
        if self._vlm is not None:
            self._vlm.verify(system.backbone)
        now = _hashes(system)
        changed = [name for name, value in self._hashes.items() if now.get(name) != value]
        if changed:
            msg = f"frozen weights have changed in training: {', '.join(changed)}"
            raise NotFrozenError(msg)
        names = [*(["vlm"] if self._vlm is not None else []), *now]
        if names:
            rank_zero_info(f"untouched, bit by bit: {', '.join(names)}")

    def state_dict(self) -> dict[str, Any]:
        """Return which VLM the run began with."""
        return {"vlm": self._began_with}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take which VLM the run began with."""
        self._began_with = state_dict["vlm"]

    def _check_vlm(self, digest: str) -> None:
        if self._began_with is not None and digest != self._began_with:
            msg = (
                f"the checkpoint was trained with another VLM ({self._began_with[:12]}) than the recipe now names "
                f"({digest[:12]}): resume with the VLM that the run began with"
            )
            raise ValueError(msg)
        self._began_with = digest


def _system(pl_module: Any) -> Any:
    """Return what the stage trains, which knows what of it is frozen; None if nothing is (``vae``, ``vlm``)."""
    systems = (getattr(pl_module, name, None) for name in ("metaquery", "kontext", "edit_reward"))
    return next((system for system in systems if system is not None), None)


def _hashes(system: Any) -> dict[str, str]:
    return {} if system is None else {name: frozen_hash(part) for name, part in system.untrained().items()}
