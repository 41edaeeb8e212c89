"""One engine and the two threads that read from it and write to it."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import queue
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Protocol

from unipic2_apps.engine.tasks import Event, read_event
from unipic2_apps.engine.worker import run_engine
from unipic2_apps.options import ModelOptions

__all__ = ["Launch", "Link", "Runner", "in_process"]


class Runner(Protocol):
    """What an engine runs in: a process, as ``multiprocessing`` has it."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    def kill(self) -> None:
        """End it at once."""


Launch = Callable[[Connection], Runner]
"""Starts an engine that serves the connection, which is its own from then on."""


def in_process(options: ModelOptions, max_rows: int) -> Launch:
    """Return what starts an engine in a process of its own.

    Args:
        options: What it loads.
        max_rows: The most pictures under way at a time.
    """

    def launch(connection: Connection) -> Runner:
        # Spawned: a forked child of a process with threads, or with CUDA, is broken.
        process = multiprocessing.get_context("spawn").Process(
            target=run_engine, args=(connection, options, max_rows), name="unipic2-engine", daemon=True
        )
        process.start()
        connection.close()  # or its end would go unnoticed here
        atexit.register(process.kill)  # it ignores what would end it otherwise
        return process

    return launch


class Link:
    """A running engine. Events are passed on in the event loop in which it was made.

    Args:
        launch: Starts the engine.
        hear: Gets each event and the number of its task, if it has one.
    """

    def __init__(self, launch: Launch, hear: Callable[[int | None, Event], None]) -> None:
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._hear = hear
        self._connection, other = multiprocessing.Pipe()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.runner = launch(other)
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True, name=f"unipic2-engine{work.__name__}").start()

    def send(self, message: bytes) -> None:
        """Send a message, without waiting; one to an engine that has ended is lost, and ``ended`` says so."""
        self._outbox.put(message)

    def kill(self) -> None:
        """End the engine at once."""
        self.runner.kill()

    def _read(self) -> None:
        try:
            while True:
                number, event = read_event(self._connection.recv_bytes())
                self._call(partial(self._hear, number, event))
        except (EOFError, OSError):
            pass
        self._outbox.put(None)
        self._call(self.ended.set)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send_bytes(message)
            except OSError:  # it has ended; the reader sees it
                return

    def _call(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop has ended before the engine
            return
