"""Run the same function on many jobs in processes, with progress, and stop at once when asked to.

A job reports progress by calling `tick`, which also ends it if the command was interrupted: Ctrl-C waits for one
sample and not for the rest of a shard.
"""

from __future__ import annotations

import signal
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Bar", "Progress", "run_jobs", "silent", "tick"]

J = TypeVar("J")
R = TypeVar("R")

_POLL = 0.2  # seconds between looks at the progress of the processes
_AHEAD = 2  # jobs handed out for each process


class Bar(Protocol):
    """A progress bar."""

    def update(self, count: int) -> object:
        """Add to what is done."""
        ...


class Progress(Protocol):
    """Makes progress bars."""

    def __call__(self, what: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:
        """Return a bar: what is counted, how many there are if that is known, and how many were done before."""
        ...


class _Silence:
    def update(self, count: int) -> None:
        pass


def silent(what: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:  # noqa: ARG001 - as others
    """Return a bar that shows nothing."""
    return nullcontext(_Silence())


class _Interrupted(BaseException):
    """Ends a job of a command that was interrupted; not an Exception, so that nothing takes it for a bad sample."""


class _Shared:
    """What this process reports to."""

    progress: Callable[[int], object] | None = None
    counter: Any = None  # shared integer: what all processes have done
    stop: Any = None  # shared event
    function: Any = None  # what this process does with its jobs


def tick(count: int = 1) -> None:
    """Report progress from within a job."""
    if _Shared.stop is not None:
        with _Shared.counter.get_lock():
            _Shared.counter.value += count
        if _Shared.stop.is_set():
            raise _Interrupted
    elif _Shared.progress is not None:
        _Shared.progress(count)


def run_jobs(
    function: Callable[[J], R], jobs: Iterable[J], workers: int, progress: Callable[[int], object] | None = None
) -> Iterator[tuple[J, R]]:
    """Yield each job with its result, as they finish; with one worker, in this process and in order.

    Args:
        function: What to do with a job; can be pickled, as jobs and results can. It is sent to each process once.
        jobs: What to do.
        workers: Processes, at most one a job.
        progress: Called in this process with what `tick` was called with.

    Raises:
        OSError: If a process died; what is finished has been yielded.
    """
    jobs = list(jobs)
    if workers <= 1 or len(jobs) <= 1:
        before, _Shared.progress = _Shared.progress, progress
        try:
            for job in jobs:
                yield job, function(job)
        finally:
            _Shared.progress = before
        return
    context = get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    workers = min(workers, len(jobs))
    pool = ProcessPoolExecutor(workers, context, _start, (counter, stop, function))
    # Ctrl-C reaches every process of the terminal. The workers, started here, inherit a mask and never see it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        waiting = iter(jobs)
        running = {pool.submit(_call, job): job for _, job in zip(range(workers * _AHEAD), waiting, strict=False)}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    seen = 0
    try:
        while running:
            done, _ = wait(running, _POLL, FIRST_COMPLETED)
            now = counter.value
            if progress and now != seen:
                progress(now - seen)
                seen = now
            for future in done:
                job = running.pop(future)
                for following in waiting:
                    running[pool.submit(_call, following)] = following
                    break
                yield job, _result(future)
        if progress:
            progress(counter.value - seen)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _result(future: Future[R]) -> R:
    try:
        return future.result()
    except BrokenProcessPool as error:
        msg = "a worker process died (the machine may have run out of memory: try fewer --workers)"
        raise OSError(msg) from error


def _start(counter: Any, stop: Any, function: Callable) -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd pictures, by the thousand; errors are counted
    _Shared.counter, _Shared.stop, _Shared.function = counter, stop, function


def _call(job: Any) -> Any:
    return _Shared.function(job)
