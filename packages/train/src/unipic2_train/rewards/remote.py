"""A reward that runs elsewhere: ``unipic2-train reward-server`` on another machine, or anything that speaks ``wire``.

What may pass is tried again with a growing, randomised pause: no connection, no answer in time, a connection that
breaks, status 408, 429 and 5xx. Pictures whose request has failed for good, or got an answer that can not be read, have
no score (NaN). What would silently make another reward ends the run: another model, revision or schema than before.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
import urllib3
from torch import Tensor
from urllib3.exceptions import HTTPError, LocationValueError

from unipic2_evals.answers import JudgeId
from unipic2_train.rewards import wire
from unipic2_train.rewards.base import Reward, RewardRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RemoteReward"]

TRY_AGAIN = (408, 429, 500, 502, 503, 504)
WRONG_ADDRESS = (301, 302, 307, 308, 401, 403, 404, 405)
LONGEST_PAUSE = 60.0
SHOWN = 200

logger = logging.getLogger(__name__)


class RemoteReward(Reward):
    """Scores of a reward server.

    Args:
        url: Its address, such as http://scorer:8200.
        model: Who scores there, as ``/health`` says; another one is refused.
        revision: Its revision, likewise.
        batch: Pictures in a request; a reward that compares the pictures of a group gets a group instead.
        concurrency: Requests at a time.
        tries: Calls for one request before it has failed.
        timeout: Seconds without any data after which a call has failed.
        pause: Seconds before the third try; the second follows at once, and the pause doubles with each.
    """

    waits = True

    def __init__(
        self,
        url: str,
        model: str,
        revision: str,
        batch: int = 16,
        concurrency: int = 4,
        tries: int = 5,
        timeout: float = 120.0,
        pause: float = 1.0,
    ) -> None:
        if min(batch, concurrency, tries) < 1 or min(timeout, pause) < 0:
            msg = (
                "expected batch, concurrency and tries >= 1, and timeout and pause >= 0, got "
                f"{batch}, {concurrency}, {tries}, {timeout} and {pause}"
            )
            raise ValueError(msg)
        self.url, self.who = url.rstrip("/"), JudgeId(model, revision)
        self.batch, self.tries = batch, tries
        self._threads = ThreadPoolExecutor(concurrency)  # bounds the requests at a time, over all that ask
        retries = urllib3.Retry(
            tries - 1,
            status_forcelist=TRY_AGAIN,
            allowed_methods=None,  # scoring again changes nothing, so POST may be repeated
            backoff_factor=pause / 2,
            backoff_jitter=pause,
            backoff_max=LONGEST_PAUSE,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(maxsize=concurrency, retries=retries, timeout=timeout)

    def prepare(self) -> JudgeId:
        """Ask the server who it is and what it can score."""
        try:
            found, self.kinds, self.whole_groups = wire.read_health(self._call("GET", "/health"))
        except (_FailedError, ValueError) as error:
            msg = f"the reward server {self.url} does not answer as it should: {error}; is it up?"
            raise ValueError(msg) from error
        self._check(found)
        return found

    def __call__(self, request: RewardRequest) -> Tensor:
        """Return one score a picture, (B,); NaN where it could not be had."""
        scores = torch.full((len(request),), torch.nan, dtype=torch.float64)
        parts = list(self._parts(request))
        for part, found in zip(parts, self._threads.map(self._scored, map(request.rows, parts)), strict=True):
            scores[part] = found
        return scores

    def _parts(self, request: RewardRequest) -> Iterator[Tensor]:
        """Yield the rows of each HTTP request, as masks (B,): of so many pictures, or of a group."""
        numbers = torch.arange(len(request)) // self.batch
        if self.whole_groups:
            order = {key: number for number, key in enumerate(dict.fromkeys(request.groups))}
            numbers = torch.tensor([order[key] for key in request.groups])
        for number in numbers.unique():
            yield numbers == number

    def _scored(self, request: RewardRequest) -> Tensor:
        """Return the scores of one HTTP request, or NaN, saying why."""
        try:
            found, scores = wire.read_reply(self._call("POST", "/score", wire.write_request(request)), len(request))
        except wire.LastingError:
            raise
        except (_FailedError, ValueError) as error:
            logger.warning("%s: no scores for %d pictures: %s", self.url, len(request), error)
            return torch.full((len(request),), torch.nan, dtype=torch.float64)
        self._check(found)
        return scores

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Return the body of an answer.

        Raises:
            LastingError: No request can succeed at this address.
            _FailedError: This one has failed, in spite of all tries.
        """
        headers = {"Content-Type": "application/json"}
        try:
            response = self._pool.request(method, f"{self.url}{path}", body=body, headers=headers, redirect=False)
        except LocationValueError as error:
            msg = f"{self.url}: no address: {error}"
            raise wire.LastingError(msg) from None
        except HTTPError as error:
            msg = f"{self.tries} tries failed, the last one: {error}"
            raise _FailedError(msg) from None
        if response.status == 200:
            return response.data
        said = f"status {response.status}: {response.data[:SHOWN].decode(errors='replace')}"
        if response.status in WRONG_ADDRESS:
            msg = f"{self.url}{path}: {said}; is this the address of a reward server?"
            raise wire.LastingError(msg)
        raise _FailedError(said)

    def _check(self, found: JudgeId) -> None:
        if found != self.who:
            msg = f"{self.url} scores by {found}, but the recipe says {self.who}: another model is another reward"
            raise wire.LastingError(msg)


class _FailedError(Exception):
    """A request that has failed for good; others may fare better."""
