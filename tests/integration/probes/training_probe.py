"""A callback that keeps what a test compares: pictures as the trained model makes them while it is in training."""

from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from unipic2_train.callbacks.ema import averaged_weights

__all__ = ["KeepPictures"]


class KeepPictures(Callback):
    """Write the averaged model's pictures of the first test samples to ``pictures-KIND.npy`` when training ends."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generate and write."""
        pl_module.eval()
        for kind in trainer.datamodule.kinds:
            batch = trainer.datamodule.fixed_batch("test", kind, 4)
            with averaged_weights(trainer):
                pictures = pl_module.generate(batch)
            np.save(Path(trainer.default_root_dir) / f"pictures-{kind}.npy", pictures.numpy())
