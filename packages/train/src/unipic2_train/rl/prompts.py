"""Prompts for text-to-image reinforcement, in Flow-GRPO's ratio of categories and without any test prompt.

Flow-GRPO trains on 50,000 prompts drawn as GenEval draws them, position 7 : counting 5 : color_attr 3 : colors 1 :
two_object 1, with the test prompts removed. Here they are drawn again: GenEval's from its generator, those of the
shapes world from the prompts of its training split. A row is a prompt with what a scorer needs to know; a prompt that
comes twice is two rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.prompts import PROMPTS
from unipic2_evals.geneval_suite import prompt_suite

__all__ = ["TAG_WEIGHTS", "PromptRow", "PromptsConfig", "make_prompts"]

TAG_WEIGHTS = {"position": 7.0, "counting": 5.0, "color_attr": 3.0, "colors": 1.0, "two_object": 1.0}


@dataclass
class PromptsConfig:
    """Generated prompts instead of those of the data."""

    source: Literal["shapes", "geneval"]
    """``geneval``: its generator's, COCO classes; ``shapes``: the shapes world's training split."""
    weights: dict[str, float] = field(default_factory=lambda: dict(TAG_WEIGHTS))
    """Ratio of the categories."""
    rows: int = 50_000
    """Number of rows."""
    seed: int = 0
    """Seed of the draw."""


@dataclass(frozen=True)
class PromptRow:
    """One row: its key, its text, and the sample's JSON object."""

    key: str
    text: str
    meta: dict[str, Any]


def make_prompts(config: PromptsConfig) -> list[PromptRow]:
    """Return the rows: their number by category is the ratio's, and a category repeats what it has in turn.

    Raises:
        ValueError: A category is unknown, or a weight is not positive.
    """
    pools = _shapes(config) if config.source == "shapes" else _geneval(config)
    wrong = {tag: weight for tag, weight in config.weights.items() if tag not in pools or weight <= 0}
    if wrong or not config.weights:
        msg = f"data.prompts.weights {wrong or '(none)'}: categories are {', '.join(pools)}, with positive weights"
        raise ValueError(msg)
    rows, total, before = [], sum(config.weights.values()), 0.0
    for tag, weight in config.weights.items():
        start, stop = round(config.rows * before / total), round(config.rows * (before + weight) / total)
        pool, before = pools[tag], before + weight
        order = keyed_rng(config.seed, f"prompts-{tag}", purpose="rl").permutation(len(pool))
        for number in range(stop - start):
            text, meta = pool[order[number % len(pool)]]
            rows.append(PromptRow(f"{config.source}-{config.seed}-{tag}-{number:06d}", text, meta))
    return rows


def _shapes(config: PromptsConfig) -> dict[str, list[tuple[str, dict[str, Any]]]]:  # noqa: ARG001 - has no draw of its own
    return {
        tag: [
            (prompt.text, {"task": tag, "captions": [prompt.text], "shapes": {"metadata": prompt.metadata}})
            for prompt in prompts
        ]
        for tag, prompts in PROMPTS["train"].items()
    }


def _geneval(config: PromptsConfig) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Draw as many of each category as the ratio may need, and remove the test suite's."""
    test = {prompt["prompt"] for prompt in prompt_suite()}
    largest = max(config.weights.values(), default=0) / max(sum(config.weights.values()), 1e-9)
    drawn = prompt_suite(seed=config.seed, n=max(1, round(1.2 * largest * config.rows)))
    pools: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for prompt in drawn:
        if prompt["prompt"] not in test:
            meta = {"task": prompt["tag"], "captions": [prompt["prompt"]], "metadata": prompt}
            pools.setdefault(prompt["tag"], []).append((prompt["prompt"], meta))
    return pools
