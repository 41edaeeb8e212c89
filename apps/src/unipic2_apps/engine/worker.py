"""The engine itself: a process that owns a model, reads tasks from a connection and answers on it."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from contextlib import closing
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from unipic2_apps.engine import wire
from unipic2_apps.engine.tasks import (
    Answered,
    Ask,
    Event,
    Make,
    Picture,
    Piece,
    Preview,
    Ready,
    Refused,
    Stepped,
    Unusable,
    read_task,
    write_event,
)
from unipic2_apps.errors import user_errors
from unipic2_apps.options import ModelOptions

if TYPE_CHECKING:
    from unipic2_apps import scheduler
    from unipic2_unified import Request, UniPic2
    from unipic2_vlm.understanding import Answer

__all__ = ["Worker", "run_engine"]

logger = logging.getLogger(__name__)


def run_engine(connection: Connection, options: ModelOptions, max_rows: int) -> None:
    """Load a model and serve it until the connection closes or says stop. The main function of a process."""
    # Whoever asks a group of processes to end means the server, which lets this one finish what runs.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        from unipic2_apps.loading import load
        from unipic2_unified.prompts import CACHE_BYTES

        model = load(options, cache_bytes=CACHE_BYTES)
    except user_errors() as error:
        connection.send_bytes(write_event(Unusable(str(error))))
        return
    Worker(connection, model, max_rows=max_rows).run()


class Worker:
    """Serves one model on one connection.

    Between two steps it looks for new tasks and for cancelled ones. Questions are answered one after the other between
    steps; both kinds of work take turns.

    Args:
        connection: Where tasks come from and events go to.
        model: The model.
        max_rows: The most pictures under way at a time.
    """

    def __init__(self, connection: Connection, model: UniPic2, *, max_rows: int) -> None:
        from unipic2_apps.scheduler import Scheduler

        self.connection = connection
        self.model = model
        self.scheduler: Scheduler[tuple[int, int]] = Scheduler(model, max_rows=max_rows)
        self._rows: dict[int, set[int]] = {}
        self._questions: deque[tuple[int, Ask]] = deque()
        self._answering: int | None = None
        self._stopping = False

    def run(self) -> None:
        """Work until the connection closes, or says stop and nothing is left to do."""
        try:
            self._send(Ready(_facts(self.model)))
            while self._read(wait=True):
                self._answer()
                self._step()
        except (EOFError, OSError):  # the server is gone
            logger.info("the server closed the connection")

    def _read(self, *, wait: bool = False) -> bool:
        """Read what has come, waiting for something to do if there is nothing; tell whether to go on."""
        while True:
            idle = wait and not len(self.scheduler) and not self._questions
            if idle and self._stopping:
                return False
            if not self.connection.poll(None if idle else 0):
                return True
            header, blobs = wire.unpack(self.connection.recv_bytes())
            number = header.get("number", -1)
            if header["op"] == "stop":
                self._stopping = True
            elif header["op"] == "cancel":
                self._forget(number)
            else:
                self._take(number, header, blobs)

    def _take(self, number: int, header: dict[str, object], blobs: list[memoryview]) -> None:
        task = read_task(header, blobs)
        if isinstance(task, Ask):
            self._questions.append((number, task))
            return
        self._rows[number] = set(range(task.rows))
        try:
            job = self.model.prepare(_request(task, 0))
            for row in range(task.rows):
                # A picture to edit is scaled and hashed once for all its rows.
                each = replace(job, request=_request(task, row))
                self.scheduler.add_job((number, row), each, previews=task.previews)
        except Exception as error:
            self._refuse(number, error)

    def _forget(self, number: int) -> None:
        for row in self._rows.pop(number, ()):
            self.scheduler.cancel((number, row))
        self._questions = deque(each for each in self._questions if each[0] != number)
        if self._answering == number:
            self._answering = None

    def _answer(self) -> None:
        """Answer the next question, if there is one, reading on between its pieces."""
        if not self._questions:
            return
        number, task = self._questions.popleft()
        self._answering = number
        try:
            with closing(self._begin(task)) as answer:
                for piece in answer:
                    self._read()
                    if self._answering is None:  # cancelled
                        return
                    self._send(Piece(piece), number)
        except (EOFError, OSError):
            raise
        except Exception as error:
            self._refuse(number, error)
            return
        self._answering = None
        usage = answer.usage
        self._send(Answered(usage.prompt_tokens, usage.answer_tokens, usage.cut), number)

    def _begin(self, task: Ask) -> Answer:
        from unipic2_vlm import Turn

        pictures = iter(task.pictures)
        history = [Turn(turn.role, turn.text, list(islice(pictures, turn.pictures))) for turn in task.history]
        return self.model.ask(
            list(pictures),
            task.question,
            history=history,
            max_new_tokens=task.max_new_tokens,
            temperature=task.temperature,
            top_p=task.top_p,
            seed=task.seed,
            stream=True,
        )

    def _step(self) -> None:
        if not len(self.scheduler):
            return
        start = time.perf_counter()
        for event in self.scheduler.step():
            self._report(event, time.perf_counter() - start)

    def _report(self, event: scheduler.Event[tuple[int, int]], seconds: float) -> None:
        from unipic2_apps import scheduler

        if isinstance(event, scheduler.Stepped):
            self._send(Stepped(event.rows, seconds))
            return
        number, row = event.key
        if number not in self._rows:  # another row of the task has failed
            return
        if isinstance(event, scheduler.Failed):
            self._refuse(number, event.error)
        elif isinstance(event, scheduler.Preview):
            self._send(Preview(row, event.index, event.picture), number)
        else:
            self._send(Picture(row, event.picture), number)
            self._rows[number].discard(row)
            if not self._rows[number]:
                del self._rows[number]

    def _refuse(self, number: int, error: Exception) -> None:
        self._forget(number)
        self._send(_refusal(error), number)

    def _send(self, event: Event, number: int | None = None) -> None:
        self.connection.send_bytes(write_event(event, number))


def _request(task: Make, row: int) -> Request:
    from unipic2_unified import Request

    given: dict[str, Any] = {"steps": task.steps, "guidance": task.guidance}
    return Request(
        prompt=task.prompt,
        image=task.pictures[0] if task.pictures else None,
        negative_prompt=task.negative_prompt,
        size=task.size,
        seed=task.seeds[row],
        **{name: value for name, value in given.items() if value is not None},
    )


def _refusal(error: Exception) -> Refused:
    """Return what a client is told: all of its own mistakes, and nothing of the inside."""
    from unipic2_unified import NotCapableError

    if isinstance(error, NotCapableError):
        return Refused("capable", str(error))
    if isinstance(error, user_errors()):
        return Refused("request", str(error))
    logger.error("a task failed", exc_info=error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Refused("engine", "The device is out of memory. Ask for fewer or smaller pictures, or try again later.")
    return Refused("engine", f"The engine could not carry it out ({type(error).__name__}).")


def _facts(model: UniPic2) -> dict[str, object]:
    from unipic2_unified.info import part_facts

    parts = part_facts(model.parts)
    return {
        "variant": model.variant,
        "can": sorted(model.can),
        "multiple": model.sizes.multiple,
        "max_edge": model.sizes.max_edge,
        "default_size": list(model.sizes.default),
        "dtype": parts["transformer"]["dtype"],
        "bytes": {name: facts["bytes"] for name, facts in parts.items()},
        "quantization": model.parts.quantization,
        "device": str(model.device),
    }
