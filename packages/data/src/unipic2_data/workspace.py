"""The folder beside its output in which a long command collects its work, so that it can go on after it was killed.

``.NAME.import`` holds what is finished: whoever runs the same command again goes on from there. The output itself
appears at the end, as a whole.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["read_json", "require_same_request", "workspace", "write_json"]

_LOCK = "lock"


@contextmanager
def workspace(out: Path, command: str) -> Iterator[Path]:
    """Give the folder to work in; ``data`` in it becomes the output at the end.

    After a `DataError` the folder is removed, since the same would happen again; after anything else it stays.

    Args:
        out: Folder to make; must not exist or be empty.
        command: Name of the command, part of the folder's name.

    Raises:
        DataError: If the output is there, or another process works on it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"{out} exists and is not empty. Name another folder, or remove this one."
        raise DataError(msg)
    out = out.absolute()
    work = out.with_name(f".{out.name}.{command}")
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = f"another process is writing {out}; wait for it, or name another folder."
            raise DataError(msg) from error
        try:
            yield work
            if out.is_dir():
                out.rmdir()
            (work / "data").replace(out)
        except DataError as error:
            if not isinstance(error, _OtherRequestError):
                shutil.rmtree(work)
            raise
        except (KeyboardInterrupt, OSError) as error:
            error.add_note("what is finished is kept: run the same command again to go on")
            raise
        shutil.rmtree(work)


def require_same_request(work: Path, request: dict[str, Any], name: str = "request.json") -> None:
    """Note what is asked for, or compare it with what was asked for when the work began.

    Args:
        work: The folder of the work.
        request: What is asked for.
        name: File to note it in.

    Raises:
        DataError: If something else was asked for then; the folder is kept.
    """
    file = work / name
    request = json.loads(json.dumps(request))
    before = read_json(file)
    if before is None:
        write_json(file, request)
        return
    different = [name for name in sorted({*before, *request}) if before.get(name) != request.get(name)]
    if different:
        msg = (
            f"{work} holds unfinished work of a command with another {' and '.join(different)}. Run that command again "
            "to go on with it, or remove the folder to begin anew."
        )
        raise _OtherRequestError(msg)


def write_json(file: Path, document: Any) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    temporary = file.with_name(f".{file.name}.partial")
    temporary.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    temporary.replace(file)


def read_json(file: Path) -> Any:
    """Return what a JSON file holds, or None if it is not there."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


class _OtherRequestError(DataError):
    pass
