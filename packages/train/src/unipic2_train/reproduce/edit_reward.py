"""``reproduce edit-reward``: PDTR with a learnt edit reward against the verifier that it learnt from (table 4).

The report reinforces editing by GPT-4.1 and by the model that learnt to say what GPT-4.1 says, then text-to-image by
rules. Here the judge is the shapes world's verifier. Both rewards are asked in both arms, and one of them counts, so
that each shows what the other one would have said; what neither of them is, the held-out judge, is asked as well.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

from unipic2_train import home, recipes
from unipic2_train.reproduce.curves import read_curve
from unipic2_train.reproduce.grid import Cell, Claim, Grid
from unipic2_train.reproduce.reinforcement import digest, reinforce, start, start_words
from unipic2_train.reproduce.scoring import JUDGED, MEASURES, score_kontext
from unipic2_train.reproduce.watch import read_watched

__all__ = ["edit_reward"]

MARGIN = 0.02
"""A score that is lower by more counts as lower (acceptance gates of the shapes world)."""
LAYER = "edit-rl/layers/edit-reward"
VERIFIER, LEARNT = "shapes", "edit_reward"
"""Names of the two rewards in that layer."""
EDIT, T2I = "editing", "text-to-image"


def edit_reward(preset: str, seeds: int, steps: int, samples: int) -> Grid:
    """Return the grid.

    Args:
        preset: Recipes ``edit-rl/PRESET`` and ``t2i-rl/PRESET``, and the reward ``home:PRESET/edit-reward``.
        seeds: Number of seeds, from 0.
        steps: N, iterations of one stage.
        samples: Test samples of each kind.

    Raises:
        HomeError: Nobody has trained that reward yet.
    """
    arms = {
        "none": "the start, not reinforced",
        "verifier": f"{EDIT} reinforced by the verifier, {steps} iterations",
        "learnt": f"{EDIT} reinforced by the learnt reward, {steps} iterations",
        "verifier-t2i": f"PDTR: then {T2I}, {steps} iterations",
        "learnt-t2i": f"PDTR with the learnt reward: then {T2I}, {steps} iterations",
    }
    folder, revision, judge = _reward(preset)
    cells = [cell for seed in range(seeds) for cell in _cells(preset, seed, steps, folder)]
    settings = {"preset": preset, "steps": steps, "samples": samples, "edit_reward": revision,
                "recipes_sha256": digest(cells)}  # fmt: skip
    measures = MEASURES | JUDGED
    score = partial(score_kontext, samples=samples, measures=measures)
    title = "A learnt edit reward against the verifier"
    text = _text(preset, steps, samples, f"`{folder}` ({revision}, learnt from {judge})")
    return Grid("edit-reward", title, text, arms, measures, _claims(), cells, score, settings, curve=read_curve,
                watch=read_watched)  # fmt: skip


def _reward(preset: str) -> tuple[str, str, str]:
    """Return the learnt reward's reference, what tells it from others, and whom it learnt from."""
    from unipic2_train.edit_reward.folder import read_record, reward_hash

    reference = f"home:{preset}/edit-reward"
    folder = home.path(reference)
    record = read_record(folder)
    return reference, reward_hash(folder, record), record.judge["id"]


def _cells(preset: str, seed: int, steps: int, folder: str) -> list[Cell]:
    none = start(preset, seed, "none")
    verifier = reinforce("verifier", none, ["edit"], preset, steps, _rewarded(folder, VERIFIER))
    learnt = reinforce("learnt", none, ["edit"], preset, steps, _rewarded(folder, LEARNT))
    return [
        none,
        verifier,
        learnt,
        reinforce("verifier-t2i", verifier, ["t2i"], preset, steps),
        reinforce("learnt-t2i", learnt, ["t2i"], preset, steps),
    ]


def _rewarded(folder: str, counted: str) -> dict[str, Any]:
    """Return the keys of a recipe in which both rewards are asked and one counts."""
    rewards = deepcopy(recipes.resolve(LAYER)["model"]["rewards"])
    for name, entry in rewards.items():
        entry["weight"] = 1.0 if name == counted else 0.0
    rewards[LEARNT]["reward"]["init_args"]["folder"] = folder
    return {"model.rewards": rewards}


def _claims() -> list[Claim]:
    claims = [
        Claim(EDIT, f"is raised by the {words}", measure, "none", arm)
        for arm, words in (("verifier", "verifier"), ("learnt", "learnt reward"))
        for measure in ("edit/exact", "edit/judged")
    ]
    claims += [
        Claim(EDIT, "is not lower after the learnt reward than after the verifier", measure, "verifier", "learnt",
              MARGIN)
        for measure in ("edit/exact", "edit/judged")
    ]  # fmt: skip
    claims.append(Claim(T2I, "is not lowered by the learnt reward", "t2i/exact", "none", "learnt", MARGIN))
    than = "is not lower after PDTR with the learnt reward than with the verifier"
    claims += [
        Claim(name, than, f"{task}/exact", "verifier-t2i", "learnt-t2i", MARGIN)
        for task, name in (("edit", EDIT), ("t2i", T2I))
    ]
    return claims


def _text(preset: str, steps: int, samples: int, reward: str) -> list[str]:
    return [
        "Does a reward that has learnt what a judge says reinforce editing as the judge itself does, or is it hacked? "
        f"The learnt reward is {reward}, one for all seeds: intervals hold the spread of starts and of reinforcement, "
        "not that of teaching a reward.",
        f"Equal steps: both stages of both arms take {steps} iterations of the same rows from the same start, and a "
        "seed decides the same noise. Verifier and learnt reward are asked in both arms with weights 1 and 0, or 0 and "
        "1; the second stage is the same in both.",
        "A reward is hacked if it rises while a judge that it does not know falls. The held-out judge has the "
        "verifier's rule and the other detector's eyes. Of the learnt reward the verifier is a second held-out judge. "
        "An alarm is an iteration at whose end the trends of reward and held-out judge point apart.",
        *start_words(preset),
        f"Each model is scored on the same {samples} test samples of each task from the same noise, by detector B; "
        "sampling is without guidance, as the policy is trained.",
    ]
