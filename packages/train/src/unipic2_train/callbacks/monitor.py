"""What a run shows while it trains: loss by task and noise level, gradient norm, speed, a progress bar with ETA."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.flop_counter import FlopCounterMode

from unipic2_train.callbacks.progress import ProgressMonitor

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["TrainingMonitor", "matmul_peak"]

SIGMA_BINS = 5


class TrainingMonitor(ProgressMonitor):
    """Log averages over the last ``every_n_steps`` optimiser steps, from the first step on.

    Logged: ``train/loss_<kind>`` and ``train/loss_<kind>/sigma_<low>-<high>`` (mean squared velocity error of the rows
    that are trained on: quarantined ones, of weight 0, say nothing about the model and do not count),
    ``train/gradient_norm`` (before clipping), ``train/learning_rate``, ``speed/samples_per_second`` and
    ``speed/peak_share``: floating-point work of the transformer's training steps over what this machine's matrix
    multiplication reached when measured at the start.

    Args:
        every_n_steps: Optimiser steps between points.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__(every_n_steps, "step", "training")
        self._sums: dict[str, Tensor] = {}
        self._values: dict[str, list[float]] = defaultdict(list)
        self._flops: dict[str, float] = {}
        self._work = 0.0
        self._samples = 0
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the machine's peak and open the progress bar."""
        self._peak = matmul_peak(pl_module.device)
        self._last_step = trainer.global_step
        self._since = time.perf_counter()
        super().on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the work of the first batch of each kind and size, which stands for all of them.

        In a pass of its own: counting takes operations apart, which changes their last bits, and a resumed run would
        count at another step.
        """
        if _work_key(batch) not in self._flops:
            with trainer.precision_plugin.train_step_context(), FlopCounterMode(display=False) as counter:
                pl_module.training_step(batch, batch_idx)["loss"].backward()
            pl_module.zero_grad()
            self._flops[_work_key(batch)] = counter.get_total_flops()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:  # noqa: ARG002
        """Note the gradient norm before it is clipped, where it will be logged."""
        if self.is_point(trainer.global_step + 1, trainer):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            self._values["train/gradient_norm"].append(float(norm))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Add the batch up, and log when it is time."""
        self._work += self._flops[_work_key(batch)]
        self._samples += len(batch)
        self._add(batch, outputs["per_row"], outputs.get("sigma"))
        if trainer.global_step == self._last_step:
            return  # in the middle of an accumulated step
        if self.is_point(trainer.global_step, trainer):
            self._log(trainer)
        self.advance(trainer.global_step - self._last_step)
        self._last_step = trainer.global_step

    def _add(self, batch: Any, per_row: Tensor, sigma: Tensor | None) -> None:
        """Add losses (B,) to the kind's sums and counts, (2, 1 + bins): all rows, then by bin of the noise level."""
        empty = torch.zeros(2, 1 + SIGMA_BINS, dtype=torch.float64, device=per_row.device)
        sums = self._sums.setdefault(batch.kind, empty)
        trained = (batch.weight > 0).to(per_row.device)
        rows = torch.stack((torch.where(trained, per_row.double(), 0.0), trained.double()))
        sums[:, 0] += rows.sum(1)
        if sigma is not None:
            sums.index_add_(1, 1 + (sigma * SIGMA_BINS).long().clamp(max=SIGMA_BINS - 1), rows)

    def _log(self, trainer: Trainer) -> None:
        metrics: dict[str, float] = {name: sum(values) / len(values) for name, values in self._values.items()}
        shown: dict[str, float] = {}
        for kind in sorted(self._sums):  # the same kinds on every rank: a step has one kind
            sums = self._sums[kind]
            if dist.is_initialized():
                dist.all_reduce(sums)
            (total, count), *bins = sums.T.tolist()
            if count:
                metrics[f"train/loss_{kind}"] = shown[f"loss {kind}"] = total / count
            for index, (loss, rows) in enumerate(bins):
                if rows:
                    low, high = index / SIGMA_BINS, (index + 1) / SIGMA_BINS
                    metrics[f"train/loss_{kind}/sigma_{low:.1f}-{high:.1f}"] = loss / rows
        elapsed = time.perf_counter() - self._since
        metrics["speed/samples_per_second"] = self._samples * trainer.world_size / elapsed
        metrics["speed/peak_share"] = self._work / elapsed / self._peak
        metrics["train/learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.log_values(trainer, metrics)
        losses = {name: f"{loss:.3f}" for name, loss in shown.items()}
        self.show({**losses, "samples/s": f"{metrics['speed/samples_per_second']:.0f}"})
        self._sums.clear()
        self._values.clear()
        self._work, self._samples, self._since = 0.0, 0, time.perf_counter()


def matmul_peak(device: torch.device, size: int = 1024, seconds: float = 0.25) -> float:
    """Return the best floating-point operations per second of a matrix product: float32 on a CPU, bfloat16 on a GPU."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _work_key(batch: Any) -> str:
    return f"{batch.kind}-{batch.size}-{len(batch)}"
