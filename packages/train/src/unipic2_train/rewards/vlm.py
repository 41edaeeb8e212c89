"""Reward ``vlm-judge``: what a vision-language model behind an OpenAI-compatible server thinks of each picture.

One question a picture, answered in words (a score from 0 to 10 in JSON) or by the first token alone: the judge is shown
the digits 0 to 5 to answer by, and the score is their expected value under its probabilities, which tells pictures
apart that get the same digit. Other forms of judging stand in ``vlm_pairwise`` and ``vlm_edit``.

A failed call, or an answer that can not be read, is no score.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unipic2_evals import gedit
from unipic2_evals.answers import CallError, JudgeId
from unipic2_evals.http import ChatModel, HttpOptions
from unipic2_evals.pictures import Pixels
from unipic2_train.rewards.base import Reward, RewardRequest

__all__ = ["OddsModel", "Question", "VLMJudge", "VLMReward", "expected_digit", "score_in_words"]

PROMPT = "<prompt>"
SEEN = {
    "t2i": f"A picture was made for this request:\n{PROMPT}\n\nHow well does it show everything that was asked for "
    "(things, their number, colours, places and relations), and how free of flaws is it?",
    "edit": f"The first picture was edited by this instruction:\n{PROMPT}\n\nThe second picture is the result. How "
    "well was the instruction followed, how well was all else kept as it was, and how free of flaws is the result?",
}
ANSWER = {
    "first_token": "Answer with one digit from 0 (not at all) to 5 (perfectly), and nothing else.",
    "words": 'Answer with JSON: {"reasoning": "one sentence", "score": N}, N from 0 (not at all) to 10 (perfectly).',
}
DIGITS = range(6)
HIGHEST = 10
LEAST = 0.5  # probability of a digit below which the judge was about to say something else
ALTERNATIVES = 20  # the most that servers give

logger = logging.getLogger(__name__)


class Question(NamedTuple):
    """What a judge is shown and asked."""

    images: Sequence[Pixels]
    text: str


class VLMReward(Reward):
    """What the rewards by a served vision-language model share: questions asked side by side, failures as NaN.

    Args:
        server: The model and how to call it.
        model_class: What calls it.
    """

    waits = True

    def __init__(self, server: HttpOptions, model_class: type[ChatModel] = ChatModel) -> None:
        self.server, self.model = server, model_class(server)
        self.threads = ThreadPoolExecutor(server.concurrency)  # bounds the calls at a time, over all that ask

    @abstractmethod
    def ask(self, question: Question) -> float:
        """Return the number that an answer stands for.

        Raises:
            CallError: There is none.
        """

    def prepare(self) -> JudgeId:
        """Show a grey square, to see that the server is there, has the model and looks at pictures."""
        try:
            self.reach(Question([np.full((64, 64, 3), 128, dtype=np.uint8)], "Reply with the digit 5."))
        except CallError as error:
            msg = f"the judge {self.server.model} at {self.server.url} does not answer as it should: {error}"
            raise ValueError(msg) from error
        return self.model.judge

    def reach(self, question: Question) -> None:
        """Get an answer, whatever it says."""
        self.model(*question)

    def answers(self, questions: Sequence[Question]) -> list[float]:
        """Return the numbers of all answers; NaN where there is none."""
        failures: list[str] = []

        def one(question: Question) -> float:
            try:
                return self.ask(question)
            except CallError as error:
                failures.append(str(error))
                return math.nan

        found = list(self.threads.map(one, questions))
        if failures:
            logger.warning(
                "%d of %d questions to %s failed, the last one: %s",
                len(failures),
                len(questions),
                self.server.model,
                failures[-1],
            )
        return found


class VLMJudge(VLMReward):
    """A judge's opinion of each picture by itself, in [0, 1].

    Args:
        server: The model and how to call it; ``max_tokens`` plays no part with ``first_token``.
        by: ``first_token``: the expected digit under the probabilities of the first token (``top_logprobs``);
            ``words``: the score that the answer's JSON holds.
        question: The question, with ``<prompt>`` where the prompt or instruction goes, and the form of the answer;
            ``null``: our own for each kind. Pictures are sent behind it: of an edit the source, then the result.
    """

    def __init__(
        self, server: HttpOptions, by: Literal["first_token", "words"] = "first_token", question: str | None = None
    ) -> None:
        if by == "first_token":
            super().__init__(replace(server, max_tokens=1), OddsModel)
        else:
            super().__init__(server)
        self.by, self.question = by, question
        if question is not None and PROMPT not in question:
            msg = f"question must say with {PROMPT} where the prompt goes, got {question[:80]!r}"
            raise ValueError(msg)

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,)."""
        template = self.question or f"{SEEN[request.kind]} {ANSWER[self.by]}"
        questions = [
            Question([*sources, picture.numpy()], template.replace(PROMPT, prompt))
            for sources, picture, prompt in zip(sources_of(request), request.pictures, request.prompts, strict=True)
        ]
        return torch.tensor(self.answers(questions), dtype=torch.float64)

    def ask(self, question: Question) -> float:
        """Return the judge's opinion, in [0, 1]."""
        if isinstance(self.model, OddsModel):
            return expected_digit(self.model.odds(*question)) / DIGITS[-1]
        return score_in_words(self.model(*question)) / HIGHEST

    def reach(self, question: Question) -> None:
        """Get an answer, with its probabilities if they are needed."""
        if isinstance(self.model, OddsModel):
            self.model.odds(*question)
        else:
            super().reach(question)


class OddsModel(ChatModel):
    """A served model that also says how likely other first tokens were."""

    def odds(self, images: Sequence[Pixels], prompt: str) -> dict[str, float]:
        """Return the likeliest first tokens of the reply and their probabilities.

        Raises:
            CallError: All tries have failed, or the server sends no probabilities.
        """
        choice = self.choice(images, prompt, {"logprobs": True, "top_logprobs": ALTERNATIVES})
        try:
            first = choice["logprobs"]["content"][0]
            return {str(token["token"]): math.exp(token["logprob"]) for token in first["top_logprobs"]}
        except (LookupError, TypeError, OverflowError) as error:
            msg = f"the answer has no top_logprobs ({type(error).__name__}); does the server allow {ALTERNATIVES}?"
            raise CallError(msg) from error


def expected_digit(odds: dict[str, float]) -> float:
    """Return the mean digit under the judge's probabilities, ``sum d p(d) / sum p(d)``, in [0, 5].

    Raises:
        CallError: Less than half of the probability is on digits, so that this was no answer to the question.
    """
    digits = [sum(odds[token] for token in odds if token.strip() == str(digit)) for digit in DIGITS]
    if sum(digits) < LEAST:
        likely = ", ".join(f"{token!r} {share:.2f}" for token, share in sorted(odds.items(), key=lambda o: -o[1])[:3])
        msg = f"a digit from 0 to {DIGITS[-1]} has a probability of {sum(digits):.2f} alone; likely were: {likely}"
        raise CallError(msg)
    return sum(digit * share for digit, share in zip(DIGITS, digits, strict=True)) / sum(digits)


def score_in_words(reply: str) -> float:
    """Return the lowest score, from 0 to 10, of a reply.

    Raises:
        CallError: There is none.
    """
    parsed = gedit.parse_judge_output(reply, official=False)
    if not parsed:
        msg = f"no score from 0 to {HIGHEST} in the reply {reply[:80]!r}"
        raise CallError(msg)
    return float(min(parsed["score"]))


def sources_of(request: RewardRequest) -> list[list[Pixels]]:
    """Return the pictures to show before each result: the source of an edit, nothing for a prompt."""
    if request.sources is None:
        return [[] for _ in request.prompts]
    return [[source.numpy()] for source in request.sources]
