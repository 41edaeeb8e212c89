"""What an iteration of reinforcement costs: seconds an image to sample, score and optimise, and the ratio to the floor.

python benchmarks/rl_step.py [--stage edit-rl] [--config NAME ...] [--iterations 5] [--out FILE] [--key value ...]

Takes a stage's recipes and keys as `lightning run` does. The floor is what the algorithm can not do without: forwards
and forward+backward passes of the transformer, counted from the recipe and timed on this machine at the recipe's own
micro-batch, without VAE, text encoders, reward, optimiser step or bookkeeping. Under guidance a pass has two rows an
image. Every group counts as informative (the reward is brightness), so nothing is saved by dropping one.

    grpo   T forwards, then S x (forward+backward + a forward of the reference if there is a pull to it)
    nft    T forwards, then J x (forward+backward + a forward of the old policy + a forward of the reference)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from unipic2_data.loader import SampleStore
from unipic2_data.manifest import Manifest
from unipic2_dit import sampling
from unipic2_train import home, runner
from unipic2_train.cli import STAGES, _layered
from unipic2_train.kontext import Kontext
from unipic2_train.reproduce.execute import hardware
from unipic2_train.rewards.base import WeightedReward
from unipic2_train.rewards.brightness import BrightnessReward
from unipic2_train.rl.data import Iterations, _plan
from unipic2_train.rl.iteration import Reinforcement
from unipic2_train.rl.layout import Layout
from unipic2_train.rl.objectives import reference_policy
from unipic2_train.rl.prompts import make_prompts
from unipic2_train.rl.rollout import sample
from unipic2_train.rl.window import sde_window
from unipic2_train.training_checkpoint import trainable_parameters

GATE, GOAL = 1.4, 1.15
PHASES = ("sample", "score", "optimise")
ROUNDS = 3


def seconds(action: Callable[[], Any], device: torch.device) -> float:
    """Return the median time of an action."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def floor(kontext: Kontext, reinforcement: Reinforcement, batch: Any, layout: Layout, device: torch.device) -> float:
    """Return the seconds per image that the counted passes take by themselves."""
    config, transformer = reinforcement.config, kontext.transformer
    rollout = sample(transformer, kontext.frozen, batch, layout, config, 0)
    rows = rollout.take(torch.arange(min(config.rollout.micro_batch, len(rollout))))
    state = replace(rows.state, latents=rows.latents, index=torch.full((len(rows),), 1))

    def forward() -> None:
        with torch.no_grad():
            sampling.velocity(transformer, state)

    def reference() -> None:
        with reference_policy(transformer):
            sampling.velocity(transformer, state)

    def both() -> None:
        sampling.velocity(transformer, state).square().mean().backward()

    once, back = seconds(forward, device), seconds(both, device)
    aside = seconds(reference, device) if config.kl.weight else 0.0
    if config.algorithm == "nft":
        total = config.rollout.steps * once + config.nft.levels * (back + once + aside)
    else:
        trained = len(sde_window(config.rollout.window, config.rollout.steps, 0, config.seed))
        total = config.rollout.steps * once + trained * (back + aside)
    return total / len(rows)


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("edit-rl", "t2i-rl"), default="edit-rl")
    parser.add_argument("--config", action="append", help="recipes, as of lightning run")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path)
    args, keys = parser.parse_known_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    recipes = [word for name in args.config or [STAGES[args.stage].default] for word in ("--config", name)]
    cli = runner.StageCLI("benchmark", STAGES[args.stage], _layered(args.stage, [*recipes, *keys]), build=False)
    config = cli.parser.instantiate_classes(cli.config)
    stage, data = config.model, config.data
    kontext = Kontext(stage.kontext_config, device)
    rewards = {"brightness": WeightedReward(BrightnessReward())}
    reinforcement = Reinforcement(kontext, stage.rl, rewards, stage.guards)
    layout = Layout(data.global_batch, data.group_size)
    layout.check(stage.rl)
    print(layout.words(stage.rl))
    manifest = Manifest.load(home.provide(data.path))
    made = make_prompts(data.prompts) if data.prompts else []
    plan = _plan(manifest.kinds("train"), layout, data.seed, data.tasks, made)
    stored = [kind for kind in plan.tasks if not (made and kind == "t2i")]
    rows = iter(Iterations(plan, SampleStore(manifest, "train", stored) if stored else None, made, data.size, 0))
    optimizer = torch.optim.AdamW(trainable_parameters(kontext.transformer).values(), 1e-5)
    narrow = torch.autocast(device.type, torch.bfloat16) if args.precision == "bfloat16" else nullcontext()
    with narrow:
        reinforcement.step(next(rows), layout, optimizer, 0)  # warms up
        measured, least = [], []
        for number in range(args.iterations):  # floor and iteration in turn: a machine's speed drifts
            measured.append(reinforcement.step(next(rows), layout, optimizer, number + 1))
            least.append(floor(kontext, reinforcement, next(rows), layout, device))
    taken = [{phase: each[f"speed/{phase}_seconds"] / layout.images for phase in PHASES} for each in measured]
    phases = {phase: statistics.median(each[phase] for each in taken) for phase in PHASES}
    ratios = [sum(each.values()) / bottom for each, bottom in zip(taken, least, strict=True)]
    ratio, bottom = statistics.median(ratios), statistics.median(least)
    result = {
        "question": "seconds per image of an iteration of reinforcement, and the ratio to its floor",
        "command": " ".join(["python", "benchmarks/rl_step.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "device": hardware(),
        "precision": args.precision,
        "torch": torch.__version__,
        "layout": layout.words(stage.rl),
        "seconds_per_image": phases,
        "floor": bottom,
        "ratio": ratio,
        "ratios": sorted(ratios),
        "gate": GATE,
        "goal": GOAL,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
    }
    for phase, value in phases.items():
        print(f"{phase:<10} {value * 1e3:9.2f} ms an image")
    print(f"{'floor':<10} {bottom * 1e3:9.2f} ms an image; ratio {ratio:.2f} (gate {GATE}, goal {GOAL})")
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
