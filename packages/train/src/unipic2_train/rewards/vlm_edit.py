"""Reward ``vlm-judge`` by Step1X-Edit's template, as GEdit-Bench judges edits (see ``unipic2_evals.gedit``).

The judge is asked twice about each edit: for semantic consistency (was it done, was too much done) and for perceptual
quality (is it natural, has it artefacts). The smallest score of each list counts. The texts are those of the official
``viescore/vie_prompts.py``, which is read from a copy of yours; nothing in it is run.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unipic2_evals import gedit
from unipic2_evals.answers import JudgeId
from unipic2_evals.http import HttpOptions
from unipic2_evals.pictures import Pixels
from unipic2_evals.runs.gedit import read_prompts
from unipic2_train.rewards.base import RewardRequest
from unipic2_train.rewards.vlm import HIGHEST, Question, VLMReward, score_in_words

__all__ = ["VLMEditJudge"]


class VLMEditJudge(VLMReward):
    """GEdit-Bench's score of an edit over 10, in [0, 1].

    Args:
        server: The model and how to call it.
        prompts: The official ``viescore/vie_prompts.py`` of stepfun-ai/Step1X-Edit.
        combine: ``geometric``: ``sqrt(SC * PQ)`` as the benchmark; ``min``: the smaller of the two.
    """

    kinds = ("edit",)

    def __init__(self, server: HttpOptions, prompts: str, combine: Literal["geometric", "min"] = "geometric") -> None:
        super().__init__(server)
        self.prompts, self.combine = prompts, combine

    @cached_property
    def texts(self) -> dict[str, str]:
        """The instructions for SC and PQ."""
        path = Path(self.prompts).expanduser()
        if not path.is_file():
            msg = f"prompts {path} does not exist: pass viescore/vie_prompts.py of stepfun-ai/Step1X-Edit"
            raise ValueError(msg)
        return read_prompts(path)

    def prepare(self) -> JudgeId:
        """Read the texts, and ask one question."""
        _ = self.texts
        return super().prepare()

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,); NaN where one of its answers failed."""
        if request.sources is None:
            msg = "judging an edit needs its source, which the canonical kind `edit` has"
            raise ValueError(msg)
        consistency, quality = [], []
        for source, picture, instruction in zip(request.sources, request.pictures, request.prompts, strict=True):
            result = _resized(picture.numpy(), source.numpy())
            about = self.texts["SC"].replace("<instruction>", instruction)
            consistency.append(Question([source.numpy(), result], about))
            quality.append(Question([result], self.texts["PQ"]))
        found = self.answers([*consistency, *quality])
        pairs = zip(found[: len(request)], found[len(request) :], strict=True)
        return torch.tensor([self._combined(*pair) / HIGHEST for pair in pairs], dtype=torch.float64)

    def ask(self, question: Question) -> float:
        """Return the smallest score of the reply, from 0 to 10."""
        return score_in_words(self.model(*question))

    def _combined(self, consistency: float, quality: float) -> float:
        if math.isnan(consistency) or math.isnan(quality):
            return math.nan
        semantics, perception, overall = gedit.combine([consistency], [quality])
        return overall if self.combine == "geometric" else min(semantics, perception)


def _resized(picture: Pixels, like: Pixels) -> Pixels:
    """Return the picture in the size of another, as the benchmark does before it judges."""
    if picture.shape == like.shape:
        return picture
    return np.array(Image.fromarray(picture).resize((like.shape[1], like.shape[0])))
