"""The server that the page starts for itself.

It runs in a process of its own, ``python -m unipic2_apps.ui.child WORDS``, which ends when the page's process does,
however that ended: the page holds the other end of its standard input.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from unipic2_apps.errors import UsageError
from unipic2_apps.options import ModelOptions

__all__ = ["server", "words_of"]

GRACE = 10
"""Seconds that the server has to end."""
COMMAND = [sys.executable, "-m", "unipic2_apps.ui.child"]


@contextmanager
def server(model: ModelOptions) -> Iterator[str]:
    """Run a server on a free port of this machine as long as the context lasts; give its address.

    Raises:
        UsageError: If it does not start; the message is its own.
    """
    words = ["serve", "--host", "127.0.0.1", "--port", "0", "--grace", str(GRACE), *words_of(model)]
    # In a group of its own: Ctrl-C is for the page, which ends it.
    with subprocess.Popen(
        [*COMMAND, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        rest = threading.Thread(target=_pass_on, args=(process,), daemon=True)
        try:
            address = _address(process)
            rest.start()
            yield address
        finally:
            assert process.stdin is not None  # it is a pipe
            process.stdin.close()
            try:
                process.wait(2 * GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            if rest.ident is not None:  # it was started
                rest.join()


def words_of(model: ModelOptions) -> list[str]:
    """Return the words of a command line that say the same as some options."""
    words = []
    for field in fields(model):
        value, name = getattr(model, field.name), field.name.replace("_", "-")
        if value == getattr(ModelOptions(), field.name):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}={each}" for each in (value if isinstance(value, list) else [value])]
    return words


def _address(process: subprocess.Popen[str]) -> str:
    """Return where the server listens, once it does; what it says before goes on to standard error."""
    assert process.stderr is not None  # it is a pipe
    last = ""
    for line in process.stderr:
        found = re.search(r"^serving .* at (http://\S+?),", line)
        if found:
            return found[1]
        last = line.strip() or last
        if not line.startswith("error: "):
            sys.stderr.write(line)
    raise UsageError(last.removeprefix("error: ") or "the server ended before it listened.")


def _pass_on(process: subprocess.Popen[str]) -> None:
    for line in process.stderr or ():
        sys.stderr.write(line)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the parent is gone, or says so
    os.kill(os.getpid(), signal.SIGTERM)


def _main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from unipic2_apps.cli import main

    main(sys.argv[1:])


if __name__ == "__main__":
    _main()
