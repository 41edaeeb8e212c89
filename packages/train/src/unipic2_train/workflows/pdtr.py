"""Workflow ``pdtr``: progressive dual-task reinforcement (UniPic 2.0, section 3.2), editing first, then text-to-image.

The second stage starts from the first's exported model, averaged and with its adapter merged, which is also its
reference policy; every export says what it started from. Each stage runs in a process of its own: what one leaves in
memory, or in process groups, is no business of the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["arguments_of", "run"]

STAGES = ("edit-rl", "t2i-rl")


def run(arguments: list[str]) -> None:
    """Run ``lightning run pdtr``; see ``usage``.

    Raises:
        SystemExit: A stage failed; with its code.
    """
    parser = argparse.ArgumentParser(prog="lightning run pdtr", add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--algorithm")
    parser.add_argument("--checkpoint")
    parser.add_argument("--run_dir", type=Path)
    own, rest = parser.parse_known_args(arguments)  # the rest goes to both stages, and is checked by them
    folder = (own.run_dir or Path("runs") / f"pdtr-{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    start = own.checkpoint
    for stage in STAGES:
        words = arguments_of(stage, own.preset, own.algorithm, start, folder / stage) + rest
        done = subprocess.run([str(Path(sys.executable).with_name("lightning")), *words])
        if done.returncode:
            raise SystemExit(done.returncode)
        start = str(folder / stage / "export")
    print(f"pdtr:       {start}")  # noqa: T201 - where the model is


def arguments_of(stage: str, preset: str, algorithm: str | None, checkpoint: str | None, folder: Path) -> list[str]:
    """Return the command line of one of the two stages."""
    words = ["run", stage, "--config", f"{stage}/{preset}", "--run_dir", str(folder)]
    if algorithm:
        words += ["--config", f"edit-rl/layers/{algorithm}"]
    if checkpoint:
        words += ["--model.kontext.checkpoint", checkpoint]
    return words
