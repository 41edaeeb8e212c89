"""``reproduce rl-presets``: what PDTR's stages gain by the report's settings, by faster ones, and by DiffusionNFT."""

from __future__ import annotations

from functools import partial
from typing import Any

from unipic2_train import recipes
from unipic2_train.reproduce.curves import read_curve
from unipic2_train.reproduce.grid import Cell, Claim, Grid, Pace
from unipic2_train.reproduce.reinforcement import digest, own_sampling, reinforce, score_sampled, start, start_words
from unipic2_train.reproduce.scoring import JUDGED, MEASURES, score_kontext

__all__ = ["rl_presets"]

LAYERS = {"fast": "pdtr-fast", "faithful": "pdtr-faithful", "nft": "nft"}
TASKS = {"edit": "editing", "t2i": "text-to-image"}
WIDER = 16
"""How much wider the faithful clip is here: by sqrt(65,536 / 256), the latent elements at 512 px and at 32 px."""


def rl_presets(preset: str, seeds: int, steps: int, samples: int) -> Grid:
    """Return the grid of the three layers, for each task.

    Args:
        preset: Recipes ``edit-rl/PRESET`` and ``t2i-rl/PRESET``.
        seeds: Number of seeds, from 0.
        steps: Iterations of every arm.
        samples: Test samples of each kind.
    """
    guidance = own_sampling(preset)["guidance"]
    arms = {"none": "the start", "none-guided": f"the start under guidance {guidance:g}"}
    arms |= {
        f"{task}-{name}": f"{words}, layer `{layer}`, {steps} iterations"
        for task, words in TASKS.items()
        for name, layer in LAYERS.items()
    }
    cells = [cell for seed in range(seeds) for cell in _cells(preset, seed, steps, guidance)]
    claims, paces = [], []
    for task, words in TASKS.items():
        measure, faithful = f"{task}/exact", f"{task}-faithful"
        for name in LAYERS:
            before = "none-guided" if name == "faithful" else "none"
            claims.append(Claim(words, f"is raised by {name}", measure, before, f"{task}-{name}"))
        for name in ("fast", "nft"):
            arm = f"{task}-{name}"
            claims.append(Claim(words, f"is not lower after {name} than after faithful", measure, faithful, arm, 0.02))
            paces.append(Pace(measure, faithful, arm))
    settings = {"preset": preset, "steps": steps, "samples": samples, "recipes_sha256": digest(cells)}
    measures = MEASURES | JUDGED
    score = partial(score_kontext, samples=samples, measures=measures)
    return Grid("rl-presets", "Reinforcement: the report's settings, faster ones, and DiffusionNFT",
                _text(preset, steps, samples, guidance), arms, measures, claims, cells, score, settings,
                curve=read_curve, paces=paces)  # fmt: skip


def _cells(preset: str, seed: int, steps: int, guidance: float) -> list[Cell]:
    none = start(preset, seed, "none")
    cells = [none, score_sampled("none-guided", none, {"guidance": guidance})]
    for task in TASKS:
        for name, layer in LAYERS.items():
            settings: dict[str, Any] = recipes.resolve(f"edit-rl/layers/{layer}")
            if name == "faithful":
                clip = settings["model"]["rl"]["grpo"]["clip"]
                settings |= {
                    "model.rl.rollout.guidance": guidance,
                    "model.kontext.sampling.guidance": guidance,
                    "model.rl.grpo.clip": WIDER * clip,
                }
            cells.append(reinforce(f"{task}-{name}", none, [task], preset, steps, settings))
    return cells


def _text(preset: str, steps: int, samples: int, guidance: float) -> list[str]:
    return [
        f"Three ways to reinforce one model, {steps} iterations each of as many images, from the same start: "
        "`pdtr-faithful`, the report's settings completed by the Flow-GRPO preset that it shares them with; "
        "`pdtr-fast`, three stochastic steps and no guidance; `nft`, DiffusionNFT. Recipe, adapter, learning rate and "
        "rewards are the same.",
        "Two numbers of `pdtr-faithful` belong to SD3.5 at 512 px and are translated: its guidance of 4.5 is "
        f"{guidance:g} here, the scale that the start's own recipe samples with, and its clip is {WIDER} times wider, "
        "since a log-probability is a mean over 256 latent elements here and over 65,536 there, and spreads by that "
        "much more.",
        *start_words(preset),
        f"Each model is scored as it is trained: `faithful` under guidance {guidance:g}, the others without, and the "
        f"start both ways. Test samples: the same {samples} of each task, from the same noise, judged by detector B.",
    ]
