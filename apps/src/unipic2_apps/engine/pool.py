"""Engines as a server sees them: a bounded queue in front, processes that are watched and started again behind.

All of it runs in the server's event loop; threads do nothing but read from and write to the engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from unipic2_apps.engine import wire
from unipic2_apps.engine.link import Launch, Link
from unipic2_apps.engine.tasks import (
    Answered,
    Event,
    Picture,
    Piece,
    Preview,
    Ready,
    Refused,
    Stepped,
    Task,
    Unusable,
    write_task,
)

__all__ = ["NoEngineError", "Pool", "QueueFullError", "Ticket"]

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
HEALTHY_AFTER = 60.0
"""Seconds after which an engine that dies is no sign of a fault that comes back at once."""
LONGEST_RETRY = 60


class QueueFullError(Exception):
    """There is no room for a task now.

    Args:
        retry_after: Seconds after which there may be.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The queue is full; try again in {retry_after} s.")
        self.retry_after = retry_after


class NoEngineError(Exception):
    """No engine works at the moment, or the server ends."""


class Ticket:
    """A task on its way; ``next`` tells what happens."""

    def __init__(self, number: int, task: Task, forget: Callable[[Ticket], None]) -> None:
        self.number = number
        self.task = task
        self.sent = False
        self.retried = False
        self.over = False
        self._forget = forget
        self._left = set(range(task.rows))
        self._seen: set[tuple[int, int]] = set()
        self._spoken = False
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def may_retry(self) -> bool:
        """Whether it can start again from the beginning, and nobody would see."""
        return not self.retried and not self._spoken

    async def next(self) -> Event | None:
        """Wait for what happens next. After the last picture, ``Answered``, ``Refused`` or ``cancel`` it is nothing."""
        if self.over and self._events.empty():
            return None
        return await self._events.get()

    def cancel(self) -> None:
        """Give it up: its rows leave before the next step. Without effect when it is over."""
        if not self.over:
            self._forget(self)

    def hear(self, event: Event) -> None:
        """Note what happened, once; an engine that started again repeats itself."""
        if isinstance(event, Picture):
            if event.row not in self._left:
                return
            self._left.discard(event.row)
        elif isinstance(event, Preview):
            if (event.row, event.index) in self._seen:
                return
            self._seen.add((event.row, event.index))
        elif isinstance(event, Piece):
            self._spoken = True
        self.over = isinstance(event, Refused | Answered) or not self._left
        self._events.put_nowait(event)


class _Engine:
    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.link: Link | None = None
        self.ready = False
        self.broken = ""
        self.tickets: dict[int, Ticket] = {}

    @property
    def rows(self) -> int:
        return sum(ticket.task.rows for ticket in self.tickets.values())

    def send(self, ticket: Ticket) -> None:
        if self.ready and self.link is not None and not ticket.sent:
            ticket.sent = True
            self.link.send(write_task(ticket.number, ticket.task))


class Pool:
    """Takes tasks to engines.

    Args:
        launches: How each engine is started.
        max_queue: The most pictures and questions that wait or run, over all engines.
        on_step: Called after each denoising step with rows and seconds.
    """

    def __init__(
        self, launches: Sequence[Launch], *, max_queue: int, on_step: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self.max_queue = max_queue
        self.on_step = on_step
        self.facts: dict[str, Any] = {}
        self.restarts = 0
        self._engines = [_Engine(launch) for launch in launches]
        self._numbers = itertools.count()
        self._finished: deque[float] = deque(maxlen=33)
        self._stopping = False
        self._watchers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    @property
    def rows(self) -> int:
        """Pictures and questions that wait or run."""
        return sum(engine.rows for engine in self._engines)

    @property
    def size(self) -> int:
        """Engines there are."""
        return len(self._engines)

    @property
    def ready(self) -> int:
        """Engines that work."""
        return sum(engine.ready for engine in self._engines)

    @property
    def broken(self) -> str:
        """Why no engine can be started; nothing while one works, or may yet."""
        reasons = [engine.broken for engine in self._engines]
        return reasons[0] if all(reasons) else ""

    @property
    def pids(self) -> list[int | None]:
        """Process of each engine."""
        return [None if engine.link is None else engine.link.runner.pid for engine in self._engines]

    async def start(self) -> None:
        """Start all engines and wait until their models are loaded.

        Raises:
            NoEngineError: If a model can't be loaded; the message says why.
        """
        self._watchers = [asyncio.create_task(self._watch(engine)) for engine in self._engines]
        while self.ready < len(self._engines):
            self._changed.clear()
            broken = next((engine.broken for engine in self._engines if engine.broken), "")
            if broken:
                await self.stop(grace=0)
                raise NoEngineError(broken)
            await self._changed.wait()

    def submit(self, task: Task) -> Ticket:
        """Hand a task over.

        Raises:
            QueueFullError: If there is no room for all its rows.
            NoEngineError: If the server ends, or no engine can be started.
        """
        if self._stopping:
            msg = "The server is shutting down."
            raise NoEngineError(msg)
        if self.broken:
            msg = "No engine can be started at the moment."
            raise NoEngineError(msg)
        excess = self.rows + task.rows - self.max_queue
        if excess > 0:
            raise QueueFullError(self._seconds_for(excess))
        ticket = Ticket(next(self._numbers), task, self._cancel)
        self._assign(ticket)
        return ticket

    async def stop(self, *, grace: float = 30.0) -> None:
        """Take no more tasks, let the engines finish what waits or runs, and end them; once or more often.

        Args:
            grace: Seconds that they have for it.
        """
        self._stopping = True
        links = [engine.link for engine in self._engines if engine.link is not None]
        for link in links:
            link.send(wire.pack({"op": "stop"}))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(*(link.ended.wait() for link in links))
        for watcher in self._watchers:
            watcher.cancel()
        for engine in self._engines:
            if engine.link is not None:
                engine.link.kill()
            for ticket in list(engine.tickets.values()):
                self._tell(engine, ticket, Refused("engine", "The server was shut down."))

    async def _watch(self, engine: _Engine) -> None:
        """Start an engine, and again whenever it ends."""
        pause = FIRST_PAUSE
        while not self._stopping:
            started = time.monotonic()
            await self._run(engine)
            if self._stopping:
                return
            self.restarts += 1
            logger.warning("an engine ended unexpectedly; starting it again in %.1f s", pause)
            self._rescue(engine)
            await asyncio.sleep(pause)
            lasted = time.monotonic() - started
            pause = FIRST_PAUSE if lasted > HEALTHY_AFTER else min(2 * pause, LONGEST_PAUSE)

    async def _run(self, engine: _Engine) -> None:
        """Start an engine and wait until it ends."""
        try:
            engine.link = Link(engine.launch, lambda number, event: self._hear(engine, number, event))
            await engine.link.ended.wait()
        except OSError as error:  # no process can be started
            engine.broken = f"An engine can't be started ({error})."
        if not engine.ready and not engine.broken:
            engine.broken = "An engine ended while it loaded its model; what it said is in the log."
        engine.ready = False
        self._changed.set()

    def _hear(self, engine: _Engine, number: int | None, event: Event) -> None:
        if isinstance(event, Ready):
            engine.ready, engine.broken = True, ""
            self.facts = dict(event.facts)
            self._changed.set()
            for ticket in engine.tickets.values():
                engine.send(ticket)
        elif isinstance(event, Unusable):
            engine.broken = event.message
            self._changed.set()
        elif isinstance(event, Stepped):
            self.on_step(event.rows, event.seconds)
        elif number in engine.tickets:
            self._tell(engine, engine.tickets[number], event)

    def _tell(self, engine: _Engine, ticket: Ticket, event: Event) -> None:
        ticket.hear(event)
        if ticket.over:
            del engine.tickets[ticket.number]
            self._finished.extend([time.monotonic()] * ticket.task.rows)

    def _rescue(self, engine: _Engine) -> None:
        """Give the tasks of an engine that died another try, or end them."""
        tickets, engine.tickets = engine.tickets, {}
        for ticket in tickets.values():
            if engine.broken or (ticket.sent and not ticket.may_retry):
                ticket.hear(Refused("engine", "The engine that worked on it has died. Try again."))
                continue
            ticket.retried = ticket.retried or ticket.sent
            ticket.sent = False
            self._assign(ticket)

    def _assign(self, ticket: Ticket) -> None:
        engine = min(self._engines, key=lambda each: (bool(each.broken), not each.ready, each.rows))
        engine.tickets[ticket.number] = ticket
        engine.send(ticket)

    def _cancel(self, ticket: Ticket) -> None:
        ticket.over = True
        for engine in self._engines:
            if engine.tickets.pop(ticket.number, None) and ticket.sent and engine.link is not None:
                engine.link.send(wire.pack({"op": "cancel", "number": ticket.number}))

    def _seconds_for(self, rows: int) -> int:
        """Return after how many seconds, at the pace of late, that many rows will have left."""
        if len(self._finished) < 2:
            return 1
        pace = (time.monotonic() - self._finished[0]) / len(self._finished)
        return min(max(math.ceil(rows * pace), 1), LONGEST_RETRY)
