"""Iterations in float64 on one process or, under torchrun's variables, on several with FSDP2; see ``test_processes``.

Usage: one_iteration.py MODEL DATA OUT
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from unipic2_data.loader import eval_batches
from unipic2_data.manifest import Manifest
from unipic2_train.kontext import Kontext, KontextConfig
from unipic2_train.rewards.base import WeightedReward
from unipic2_train.rewards.brightness import BrightnessReward
from unipic2_train.rl.config import KLConfig, RLConfig, RolloutConfig, WindowConfig
from unipic2_train.rl.guards import GuardsConfig
from unipic2_train.rl.iteration import Reinforcement
from unipic2_train.rl.layout import Layout
from unipic2_train.system import AdapterConfig
from unipic2_train.training_checkpoint import trainable_parameters

CONFIGS = {
    "grpo": RLConfig(rollout=RolloutConfig(steps=3, micro_batch=3), kl=KLConfig(weight=0.1), updates=2),
    "nft": RLConfig(
        algorithm="nft",
        rollout=RolloutConfig(steps=2, guidance=1.0, window=WindowConfig("none"), micro_batch=3),
        kl=KLConfig("velocity", 0.1),
        sft_weight=0.1,
    ),
}


class OneGroupAlike(BrightnessReward):
    """Brightness, but a last row whose pictures all score alike: it is dropped, from the last process alone."""

    def __call__(self, request):
        scores = super().__call__(request)
        return scores.masked_fill(torch.tensor([key.endswith("2") for key in request.groups]), 0.5)


def main(model: str, data: str, out: str) -> None:
    """Run one iteration of each algorithm (of the second, two) and write the weights and what was logged."""
    torch.set_num_threads(1)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mesh = None
    if world > 1:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (world,))
    found = {}
    for name, config in CONFIGS.items():
        kontext = Kontext(KontextConfig(model, adapter=AdapterConfig(rank=2, alpha=4)), torch.device("cpu"), mesh)
        kontext.transformer.double()
        layout = Layout(24 if name == "nft" else 18, 6, world, rank)
        rows = next(eval_batches(Manifest.load(Path(data)), "test", "edit", 32, layout.groups, layout.groups))
        rewards = {"brightness": WeightedReward(OneGroupAlike())}
        reinforcement = Reinforcement(kontext, config, rewards, GuardsConfig(held_out=BrightnessReward()))
        optimizer = torch.optim.AdamW(trainable_parameters(kontext.transformer).values(), 1e-2)
        metrics = [reinforcement.step(rows, layout, optimizer, number) for number in range(2 if name == "nft" else 1)]
        state = {**trainable_parameters(kontext.transformer)}
        weights = {n: v.full_tensor() if isinstance(v, DTensor) else v for n, v in state.items()}
        old = reinforcement.state_dict()["old"]
        found[name] = {"weights": {n: v.detach().clone() for n, v in weights.items()}, "old": old, "metrics": metrics}
    if rank == 0:
        torch.save(found, out)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
