"""Reward ``vlm-judge`` by comparison (Pref-GRPO): how often a picture is preferred to the others of its group.

Scores of single pictures are often tied or separated by noise, which a group's std then blows up; preferences are not.
Judges favour a place, so every pair is shown both ways round.

Legend: k pictures of a group in this call.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict

import torch
from torch import Tensor

from unipic2_evals.answers import CallError
from unipic2_evals.http import HttpOptions
from unipic2_train.rewards.base import RewardRequest
from unipic2_train.rewards.vlm import PROMPT, Question, VLMReward, sources_of

__all__ = ["VLMPairwise", "pairs_of", "preference"]

SEEN = {
    "t2i": f"Picture A, which comes first, and picture B were both made for this request:\n{PROMPT}\n\nWhich one shows "
    "better what was asked for, with fewer flaws?",
    "edit": f"The first picture was edited twice by this instruction:\n{PROMPT}\n\nThe second picture is result A, "
    "the third is result B. Which one follows the instruction better, keeps all else as it was, and has fewer flaws?",
}
ANSWER = "Answer with one letter and nothing else: A, B, or C if they are equally good."
WORTH = {"A": 1.0, "B": 0.0, "C": 0.5}


class VLMPairwise(VLMReward):
    """Share of comparisons within its group that a picture wins, a tie counting half, in [0, 1].

    Args:
        server: The model and how to call it.
        rivals: Each picture of a group, in a ring, is compared with so many next ones: 2 x ``rivals`` questions a
            picture. From half the group on, these are all pairs.
    """

    whole_groups = True

    def __init__(self, server: HttpOptions, rivals: int = 2) -> None:
        super().__init__(server)
        if rivals < 1:
            msg = f"rivals must be 1 or more, got {rivals}"
            raise ValueError(msg)
        self.rivals = rivals

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,); NaN if nothing was there to compare it with, or all its calls failed."""
        groups: dict[str, list[int]] = defaultdict(list)
        for row, key in enumerate(request.groups):
            groups[key].append(row)
        pairs = [(rows[a], rows[b]) for rows in groups.values() for a, b in pairs_of(len(rows), self.rivals)]
        shown, sources = [picture.numpy() for picture in request.pictures], sources_of(request)
        text = f"{SEEN[request.kind]} {ANSWER}"
        found = self.answers(
            [
                Question([*sources[a], shown[a], shown[b]], text.replace(PROMPT, request.prompts[a]))
                for a, b in [*pairs, *((b, a) for a, b in pairs)]
            ]
        )
        won: dict[int, list[float]] = {row: [] for row in range(len(request))}
        for (a, b), first, second in zip(pairs, found[: len(pairs)], found[len(pairs) :], strict=True):
            for value in (first, 1 - second):
                won[a].append(value)
                won[b].append(1 - value)
        return torch.tensor([_mean_known(values) for values in won.values()], dtype=torch.float64)

    def ask(self, question: Question) -> float:
        """Return 1 if A is better, 0 if B is, 0.5 for neither."""
        return preference(self.model(*question))


def pairs_of(count: int, rivals: int) -> list[tuple[int, int]]:
    """Return the pairs of a ring of k pictures, each with its next ``rivals``; each pair once."""
    return sorted({(min(a, b), max(a, b)) for a in range(count) for d in range(1, rivals + 1)
                   if (b := (a + d) % count) != a})  # fmt: skip


def preference(reply: str) -> float:
    """Return what a reply's last single letter A, B or C is worth to A.

    Raises:
        CallError: There is none.
    """
    letters = re.findall(r"\b[ABC]\b", reply)
    if not letters:
        msg = f"neither A nor B nor C in the reply {reply[:80]!r}"
        raise CallError(msg)
    return WORTH[letters[-1]]


def _mean_known(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
