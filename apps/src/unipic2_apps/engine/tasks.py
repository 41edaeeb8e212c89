"""What a server asks of an engine and what it hears back: plain data, without any model code, and how it travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from PIL import Image

from unipic2_apps.engine import wire

__all__ = [
    "Answered",
    "Ask",
    "Event",
    "Make",
    "Picture",
    "Piece",
    "Preview",
    "Ready",
    "Refused",
    "Stepped",
    "Task",
    "Turn",
    "Unusable",
    "read_event",
    "read_task",
    "write_event",
    "write_task",
]


@dataclass(frozen=True)
class Make:
    """Pictures of one prompt, or edits of one picture, one a seed."""

    prompt: str
    seeds: tuple[int, ...]
    steps: int | None = None
    """Denoising steps; by default the model's own, as guidance."""
    guidance: float | None = None
    negative_prompt: str = ""
    size: tuple[int, int] | None = None
    """(height, width) in px; by default the checkpoint's own, or that of the picture."""
    previews: int = 0
    """Previews of each picture."""
    pictures: tuple[Image.Image, ...] = field(default=(), repr=False)
    """The picture to edit, or none."""

    @property
    def rows(self) -> int:
        """How much of a queue it takes."""
        return len(self.seeds)


class Turn(NamedTuple):
    """An earlier turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str
    pictures: int = 0
    """How many it has."""


@dataclass(frozen=True)
class Ask:
    """A question, about pictures or not."""

    question: str
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    history: tuple[Turn, ...] = ()
    """What was said before."""
    pictures: tuple[Image.Image, ...] = field(default=(), repr=False)
    """Those of the history, turn by turn, and then the question's own."""

    @property
    def rows(self) -> int:
        """How much of a queue it takes."""
        return 1

    @property
    def words(self) -> str:
        """All that is said."""
        return "\n".join([*(turn.text for turn in self.history), self.question])


Task = Make | Ask


@dataclass(frozen=True)
class Preview:
    """What a picture would become if it stopped here."""

    row: int
    """Which of the task's pictures."""
    index: int
    """How many previews of it there were before."""
    picture: Image.Image


@dataclass(frozen=True)
class Picture:
    """A picture that is done."""

    row: int
    """Which of the task's pictures."""
    picture: Image.Image


@dataclass(frozen=True)
class Piece:
    """Some more of an answer."""

    text: str


@dataclass(frozen=True)
class Answered:
    """The answer is over."""

    prompt_tokens: int
    """Tokens that the VLM read: words, pictures and its template."""
    answer_tokens: int
    """Tokens of the answer, with the one that ends it."""
    cut: bool
    """It is as long as it may be, and would have gone on."""


@dataclass(frozen=True)
class Refused:
    """The task is over without its result."""

    kind: Literal["request", "capable", "engine"]
    """It can't be carried out as it is; this kind of model can't do it; it is not the client's fault."""
    message: str


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""

    facts: Mapping[str, Any]
    """What it is: variant, can, multiple, max_edge, default_size (height, width), dtype, bytes of each part, device."""


@dataclass(frozen=True)
class Unusable:
    """The model can't be loaded."""

    message: str


@dataclass(frozen=True)
class Stepped:
    """A denoising step was taken."""

    rows: int
    seconds: float


Event = Preview | Picture | Piece | Answered | Refused | Ready | Unusable | Stepped

_TASKS: dict[str, type[Make | Ask]] = {"make": Make, "ask": Ask}
_EVENTS = {
    "preview": Preview,
    "picture": Picture,
    "piece": Piece,
    "answered": Answered,
    "refused": Refused,
    "ready": Ready,
    "unusable": Unusable,
    "stepped": Stepped,
}


def write_task(number: int, task: Task) -> bytes:
    """Return the message that brings a task to an engine, which will call it ``number``."""
    values = {**vars(task)}
    pictures = [wire.from_picture(picture) for picture in values.pop("pictures")]
    header = {"op": "make" if isinstance(task, Make) else "ask", "number": number, "task": values}
    return wire.pack({**header, "pictures": [facts for facts, _ in pictures]}, [blob for _, blob in pictures])


def read_task(header: Mapping[str, Any], blobs: Sequence[wire.Blob]) -> Task:
    """Return the task of such a message."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in header["task"].items()
    }
    if "history" in values:
        values["history"] = tuple(Turn(*turn) for turn in values["history"])
    pictures = tuple(wire.to_picture(facts, blob) for facts, blob in zip(header["pictures"], blobs, strict=True))
    return _TASKS[header["op"]](**values, pictures=pictures)


def write_event(event: Event, number: int | None = None) -> bytes:
    """Return the message that tells what happened to a task, or to the engine."""
    values = {**vars(event)}
    blobs = []
    if "picture" in values:
        values["picture"], blob = wire.from_picture(values["picture"])
        blobs.append(blob)
    name = next(name for name, kind in _EVENTS.items() if isinstance(event, kind))
    return wire.pack({"event": name, "number": number, "values": values}, blobs)


def read_event(message: bytes) -> tuple[int | None, Event]:
    """Return the event of such a message, and the number of its task."""
    header, blobs = wire.unpack(message)
    values = header["values"]
    if "picture" in values:
        values["picture"] = wire.to_picture(values["picture"], blobs[0])
    event: Event = _EVENTS[header["event"]](**values)
    return header["number"], event
