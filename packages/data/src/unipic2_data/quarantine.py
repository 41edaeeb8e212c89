"""Bad samples of a run: counted by reason, named in a log, and a reason to stop if there are too many.

A bad sample keeps its row in the batch, with weight 0, so that the order of all others stays what it is. The log is
JSON lines: ``time``, ``key``, ``reason``, ``message``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from unipic2_data.batch import Batch

__all__ = ["BadSample", "Fault", "Quarantine"]

_FIRST_SAMPLES = 100  # the rate counts from here on: one bad sample among the first few is no rate
_SHOWN = 5


@dataclass(frozen=True)
class Fault:
    """What is wrong with a sample: in a few words that are counted, and in full."""

    reason: str
    message: str


class BadSample(DataError):  # noqa: N818 - what it is, not where
    """A sample that cannot be used.

    Args:
        message: The sample, what is wrong with it, and the mend.
        reason: A few words, the same for all samples with this fault.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.fault = Fault(reason, message)


class Quarantine:
    """Counts the bad samples of the batches that a process has consumed.

    Args:
        rate: Share of bad samples, in [0, 1], beyond which the run stops; 0 = at the first.
        log: File that names them; None = none is written. It grows over the runs that share it.
    """

    def __init__(self, rate: float, log: Path | None = None) -> None:
        if not 0 <= rate <= 1:
            msg = f"the rate of bad samples must be in [0, 1], got {rate}."
            raise DataError(msg)
        self._rate, self._log = rate, log
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self._messages: list[str] = []

    def check(self, batch: Batch) -> None:
        """Take note of a batch.

        Raises:
            DataError: If there are too many bad samples by now; a summary.
        """
        self.seen += len(batch)
        if not batch.faults:
            return
        self.reasons.update(fault.reason for fault in batch.faults.values())
        self._messages += [fault.message for fault in batch.faults.values()][: _SHOWN - len(self._messages)]
        if self._log is not None:
            self._write(batch)
        if self.reasons.total() > self._rate * max(self.seen, _FIRST_SAMPLES):
            raise DataError(self.summary())

    def summary(self) -> str:
        """Return how many samples were bad, why, and some of them."""
        reasons = ", ".join(f"{count} x {reason}" for reason, count in self.reasons.most_common())
        where = f" All of them are named in {self._log}." if self._log else ""
        return (
            f"{self.reasons.total()} of {self.seen} samples are bad, more than {self._rate:.3%} of them: {reasons}. "
            f"For example: {'; '.join(self._messages)}.{where} See `unipic2-data verify`, or allow a higher rate."
        )

    def _write(self, batch: Batch) -> None:
        assert self._log is not None
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        lines = [
            {"time": now, "key": batch.keys[row], "reason": fault.reason, "message": fault.message}
            for row, fault in batch.faults.items()
        ]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
