"""What a person at the page has made: files, versions of a picture, and the list of all of it."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from unipic2_apps.ui.client import Settings, mime_of

__all__ = ["Entry", "Histories", "Shelf", "Version", "Versions"]

MOST_ENTRIES = 100
MOST_BROWSERS = 200
MOST_BYTES = 2 * 2**30
LONGEST_NAME = 60


class Shelf:
    """A folder for pictures. Paths can't be guessed, since whoever knows one may see the picture.

    Args:
        folder: Where it is.
        most_bytes: What all pictures together may take; the oldest make way.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self._kept: deque[tuple[Path, int]] = deque()
        self._bytes = 0

    def keep(self, data: bytes, words: str = "", seed: int | None = None) -> Path:
        """Write a picture and return where; its name is of the words and the seed that made it."""
        words = re.sub(r"[^a-z0-9]+", "-", words.lower())[:LONGEST_NAME].strip("-") or "picture"
        folder = self.folder / secrets.token_urlsafe(16)
        folder.mkdir()
        path = folder / f"{words}{'' if seed is None else f'_{seed}'}.{mime_of(data)}"
        path.write_bytes(data)
        self._kept.append((path, len(data)))
        self._bytes += len(data)
        while self._bytes > self.most_bytes and len(self._kept) > 1:
            oldest, size = self._kept.popleft()
            oldest.unlink()
            oldest.parent.rmdir()
            self._bytes -= size
        return path


@dataclass(frozen=True)
class Entry:
    """A picture, and all that it was made from."""

    kind: Literal["draw", "edit"]
    words: str
    """Prompt or instruction."""
    settings: Settings
    """With the seed that was used, for one picture."""
    path: Path
    model: str
    source: Path | None = None
    """The picture that was edited."""
    made: datetime = field(default_factory=datetime.now)


class Histories:
    """What was made in each browser, newest first. It lasts as long as the page's process."""

    def __init__(self) -> None:
        self._browsers: OrderedDict[str, deque[Entry]] = OrderedDict()

    def add(self, browser: str, entry: Entry) -> None:
        """Add a picture; the oldest of very many are forgotten."""
        entries = self._browsers.setdefault(browser, deque(maxlen=MOST_ENTRIES))
        entries.appendleft(entry)
        self._browsers.move_to_end(browser)
        if len(self._browsers) > MOST_BROWSERS:
            self._browsers.popitem(last=False)

    def of(self, browser: str) -> list[Entry]:
        """Return what is still there of what a browser made."""
        return [entry for entry in self._browsers.get(browser, ()) if entry.path.exists()]


@dataclass(frozen=True)
class Version:
    """A picture on the way from edit to edit."""

    path: Path
    instruction: str = ""
    """What made it of its parent; the first has none."""
    parent: int | None = None


@dataclass
class Versions:
    """A picture and its edits. Going back loses nothing: the next edit begins a branch."""

    items: list[Version] = field(default_factory=list)
    current: int = -1
    """Which of them the next edit is of, or -1 if there is none."""

    @property
    def picture(self) -> Path | None:
        """The picture that the next edit is of."""
        return self.items[self.current].path if self.items else None

    @property
    def before(self) -> Path | None:
        """What that picture was before its edit, if it is one."""
        parent = self.items[self.current].parent if self.items else None
        return None if parent is None else self.items[parent].path

    def open(self, path: Path) -> None:
        """Begin with a picture."""
        self.items, self.current = [Version(path)], 0

    def add(self, path: Path, instruction: str) -> None:
        """Go on with an edit of the current picture."""
        self.items.append(Version(path, instruction, self.current))
        self.current = len(self.items) - 1

    def undo(self) -> bool:
        """Go back to what the current picture was before its edit; tell whether there is such a one."""
        parent = self.items[self.current].parent if self.items else None
        if parent is None:
            return False
        self.current = parent
        return True
