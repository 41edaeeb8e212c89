import os
import signal
import threading
import time

import pytest

from unipic2_data.errors import DataError
from unipic2_data.jobs import run_jobs, tick


def square(number):
    for _ in range(number):
        tick()
    if number == 13:
        msg = "thirteen"
        raise DataError(msg)
    if number == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 19:
        for _ in range(600):
            time.sleep(0.1)
            tick(0)
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_and_progress(workers):
    ticks = []
    results = dict(run_jobs(square, range(12), workers, ticks.append))
    assert results == {number: number * number for number in range(12)}
    assert sum(ticks) == sum(range(12))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_is_raised(workers):
    with pytest.raises(DataError, match="thirteen"):
        list(run_jobs(square, [1, 13, 2], workers))


def test_a_process_that_dies_is_an_error():
    with pytest.raises(OSError, match="a worker process died"):
        list(run_jobs(square, [17, 1, 2], 2))


@pytest.fixture
def interruptible():
    """A process whose parent ignores Ctrl-C, as a script's background jobs do, ignores it too: not in this test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_does_not_wait_for_the_job():
    main = threading.get_ident()
    timer = threading.Timer(3, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs(square, [19, 19, 19], 2))
    assert time.monotonic() - start < 15


def test_without_progress():
    assert list(run_jobs(square, [3], 4)) == [(3, 9)]
