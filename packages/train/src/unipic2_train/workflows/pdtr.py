"""Workflow ``pdtr``: progressive dual-task reinforcement (UniPic 2.0, section 3.2), editing first, then text-to-image.

The second stage starts from the first's exported model, averaged and with its adapter merged, which is also its
reference policy; every export says what it started from. On one device both stages run in this process. On several
each starts a process of its own, since process groups and spawned ranks can not be used again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from unipic2_train import cli, runner

__all__ = ["arguments_of", "run"]

STAGES = ("edit-rl", "t2i-rl")


def run(arguments: list[str]) -> None:
    """Run ``lightning run pdtr``; see ``usage``.

    Raises:
        SystemExit: A stage in a process of its own failed; with its code.
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
        _run_stage(stage, arguments_of(own.preset, own.algorithm, start, folder / stage, stage) + rest)
        start = str(folder / stage / "export")
    print(f"pdtr:       {start}")  # noqa: T201 - where the model is


def arguments_of(preset: str, algorithm: str | None, checkpoint: str | None, folder: Path, stage: str) -> list[str]:
    """Return what stands behind the name of one of the two stages."""
    words = ["--config", f"{stage}/{preset}", "--run_dir", str(folder)]
    if algorithm:
        words += ["--config", f"edit-rl/layers/{algorithm}"]
    if checkpoint:
        words += ["--model.kontext.checkpoint", checkpoint]
    return words


def _run_stage(stage: str, words: list[str]) -> None:
    trainer = runner.parse(cli.STAGES[stage], cli._layered(stage, words)).trainer
    if trainer.devices == 1 and trainer.num_nodes == 1:
        cli.run_stage(stage, words)
        return
    command = [str(Path(sys.executable).with_name("lightning")), "run", stage, *words]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
