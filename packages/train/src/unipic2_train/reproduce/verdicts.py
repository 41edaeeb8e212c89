"""What finished cells say: scores of arms, differences of pairs, and verdicts on claims.

Two arms are compared on the seeds that both have finished, seed by seed and prompt by prompt (same prompts, same
noise); the interval is `unipic2_evals.report.hierarchical_interval` over seeds and prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipic2_evals.report import Interval, hierarchical_interval
from unipic2_train.reproduce.grid import Claim, Grid

__all__ = ["SEEDS_FOR_A_VERDICT", "Compared", "arm_interval", "compare", "judge", "overall"]

SEEDS_FOR_A_VERDICT = 5

Cells = Mapping[str, Mapping[str, Any]]
"""What `execute.committed` returns."""


@dataclass(frozen=True)
class Compared:
    """A claim and what the cells say about it."""

    claim: Claim
    difference: Interval | None
    """Second arm minus first; None without a seed that both have finished."""
    seeds: int
    verdict: str


def arm_interval(grid: Grid, cells: Cells, arm: str, measure: str, group: str | None = None) -> Interval | None:
    """Return the mean of an arm over its finished seeds and all prompts (of one group); None if none is finished."""
    table = _table(cells, arm, _seeds(grid, cells, arm), measure, group)
    return None if table is None else hierarchical_interval(table)


def compare(grid: Grid, cells: Cells) -> list[Compared]:
    """Return all claims with differences and verdicts."""
    compared = []
    for claim in grid.claims:
        seeds = [seed for seed in _seeds(grid, cells, claim.first) if seed in _seeds(grid, cells, claim.second)]
        tables = [_table(cells, arm, seeds, claim.measure) for arm in (claim.first, claim.second)]
        first, second = tables
        difference = None if first is None or second is None else hierarchical_interval(second - first)
        compared.append(Compared(claim, difference, len(seeds), judge(difference, claim.margin, len(seeds))))
    return compared


def judge(difference: Interval | None, margin: float | None, seeds: int) -> str:
    """Return the verdict on a claim.

    Args:
        difference: Second arm minus first, with its 95% interval.
        margin: None: the claim is that it is above 0. Else: that it is above ``-margin``.
        seeds: Seeds behind it.

    Returns:
        "shown" if the interval lies above the bound, "refuted" if it lies below it, else "not shown"; with fewer than
        `SEEDS_FOR_A_VERDICT` seeds, that there is none.
    """
    if difference is None or seeds < SEEDS_FOR_A_VERDICT:
        return f"no verdict: {seeds} of {SEEDS_FOR_A_VERDICT} seeds"
    bound = 0.0 if margin is None else -margin
    if difference.low > bound:
        return "shown"
    return "refuted" if difference.high < bound else "not shown"


def overall(compared: Sequence[Compared]) -> dict[str, str]:
    """Return the verdict on each claim of the report: shown if all its parts are, refuted if one is."""
    whole: dict[str, str] = {}
    for name in dict.fromkeys(each.claim.part_of for each in compared if each.claim.part_of):
        parts = [each.verdict for each in compared if each.claim.part_of == name]
        missing = next((verdict for verdict in parts if verdict.startswith("no verdict")), None)
        together = "refuted" if "refuted" in parts else "shown" if set(parts) == {"shown"} else "not shown"
        whole[name] = missing or together
    return whole


def _seeds(grid: Grid, cells: Cells, arm: str) -> list[int]:
    return [seed for seed in grid.seeds if f"{arm}-seed{seed}" in cells]


def _table(cells: Cells, arm: str, seeds: list[int], measure: str, group: str | None = None) -> np.ndarray | None:
    """Return the values of an arm, (seeds, prompts); None without seeds or prompts."""
    rows = [cells[f"{arm}-seed{seed}"]["scores"][measure] for seed in seeds]
    if not rows:
        return None
    for row, seed in zip(rows, seeds, strict=True):
        if row["prompts"] != rows[0]["prompts"]:
            msg = f"{arm}-seed{seed} was scored on other prompts of {measure} than seed {seeds[0]}: run it again"
            raise ValueError(msg)
    places = [place for place, name in enumerate(rows[0]["groups"]) if group in (None, name)]
    return np.array([row["values"] for row in rows])[:, places] if places else None
