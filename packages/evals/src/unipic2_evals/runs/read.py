"""Which class reads the folder of which benchmark."""

from collections.abc import Callable
from pathlib import Path

from unipic2_evals.runs import Options, Run
from unipic2_evals.runs.dpg import DPGRun
from unipic2_evals.runs.gedit import GEditRun
from unipic2_evals.runs.geneval import GenEvalRun
from unipic2_evals.runs.imgedit import ImgEditRun
from unipic2_evals.runs.mmbench import MMBenchRun
from unipic2_evals.runs.mmmu import MMMURun
from unipic2_evals.runs.shapes import ShapesRun

__all__ = ["RUNS", "read_run"]

RUNS: dict[str, Callable[[Path, Options], Run]] = {
    run.name: run for run in (GenEvalRun, DPGRun, GEditRun, ImgEditRun, MMBenchRun, MMMURun, ShapesRun)
}


def read_run(bench: str, folder: Path, options: Options) -> Run:
    """Return a benchmark's output folder, ready to be scored.

    Raises:
        ValueError: If the benchmark or the folder is unknown, or an option is missing or means nothing to it.
    """
    if bench not in RUNS:
        message = f"bench: expected one of {sorted(RUNS)}, got {bench!r}"
        raise ValueError(message)
    if not folder.is_dir():
        message = f"{folder}: no folder; expected the output of a sampler for {bench}"
        raise ValueError(message)
    return RUNS[bench](folder, options)
