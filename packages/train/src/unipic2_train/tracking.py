"""Run folders and MLflow: what a run was, what it measured, and how it is found again.

Every run has a folder (``runs/<stage>-<time>``) with its resolved ``config.yaml``, ``run.json``, checkpoints, sample
grids and export, and one MLflow run that a resumed run continues. Without ``MLFLOW_TRACKING_URI`` the store is a local
SQLite file beside the runs, made by the first process before any other starts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from unipic2_train.training_checkpoint import is_training_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Run", "RunError", "Tracker", "find_checkpoint", "package_versions", "parent_of"]

RUN_DIR_VARIABLE = "UNIPIC2_RUN_DIR"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
RUN_FILE = "run.json"
PACKAGES = ("torch", "lightning", "diffusers", "transformers", "peft", "mlflow", "unipic2-train")


class RunError(ValueError):
    """A run or checkpoint to resume that can't be found."""


@dataclass
class Run:
    """One run's folder and its MLflow identity."""

    folder: Path
    stage: str
    mlflow_run_id: str | None = None

    @classmethod
    def start(cls, stage: str, folder: Path | None) -> Run:
        """Name a new run. Processes that Lightning spawns get the same folder through the environment."""
        name = f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        inherited = os.environ.get(RUN_DIR_VARIABLE) if rank_zero_only.rank else None
        chosen = Path(inherited or folder or Path("runs") / name).expanduser().resolve()
        if inherited is None and (chosen / RUN_FILE).exists():
            msg = f"{chosen} holds a run already: go on with --resume {chosen}, or name another folder by --run_dir"
            raise RunError(msg)
        os.environ[RUN_DIR_VARIABLE] = str(chosen)
        return cls(chosen, stage)

    @classmethod
    def reopen(cls, folder: Path) -> Run:
        """Read the run of a folder.

        Raises:
            RunError: The folder is not a run's.
        """
        file = folder / RUN_FILE
        if not file.is_file():
            msg = f"{folder} is not a run's folder (no {RUN_FILE}); give runs/<run> or a checkpoint in it"
            raise RunError(msg)
        content = json.loads(file.read_text())
        os.environ[RUN_DIR_VARIABLE] = str(folder)
        return cls(folder, content["stage"], content["mlflow_run_id"])

    def write(self) -> None:
        """Write ``run.json`` (first rank only)."""
        if rank_zero_only.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{RUN_FILE}.partial"
            partial.write_text(json.dumps({"stage": self.stage, "mlflow_run_id": self.mlflow_run_id}, indent=2))
            partial.rename(self.folder / RUN_FILE)


def parent_of(stage: Any) -> str | None:
    """Return what a stage starts from: a checkpoint, with its conditioner, or a VLM; ``None`` if nothing."""
    learner = getattr(stage, "edit_reward_config", None)
    if learner is not None:
        return str(learner.vlm)
    config = getattr(stage, "kontext_config", None) or getattr(stage, "metaquery_config", None)
    if config is None:
        return None
    conditioner = getattr(config, "conditioner", None)
    return str(config.checkpoint) if conditioner is None else f"{config.checkpoint}, {conditioner}"


def find_checkpoint(target: Path) -> Path:
    """Return a checkpoint folder: ``target`` itself, or the newest complete one of the run folder ``target``.

    Raises:
        RunError: There is none.
    """
    if is_training_checkpoint(target):
        return target.resolve()
    folder = target / "checkpoints"
    complete = [path for path in folder.glob("step-*[0-9]") if is_training_checkpoint(path)] if folder.is_dir() else []
    if not complete:
        msg = f"{target} holds no complete checkpoint to resume from (looked for {folder}/step-*)"
        raise RunError(msg)
    return max(complete, key=lambda path: int(path.name.removeprefix("step-"))).resolve()


class Tracker(MLFlowLogger):
    """Lightning's MLflow logger with resumable runs, image artifacts and non-blocking metrics.

    Args:
        run: The run; its MLflow id is filled in when the first value is logged.
    """

    def __init__(self, run: Run) -> None:
        store = run.folder.parent
        store.mkdir(parents=True, exist_ok=True)
        # MLflow makes and migrates a new SQLite file without a lock: two runs that start at once would break it.
        with FileLock(store / ".mlflow.lock"), _kept(TRACKING_VARIABLE) as server:
            super().__init__(
                experiment_name=f"unipic2-{run.stage}",
                run_name=run.folder.name,
                tracking_uri=server or f"sqlite:///{store / 'mlflow.db'}",
                artifact_location=None if server else (store / "artifacts").as_uri(),
                run_id=run.mlflow_run_id,
                synchronous=False,
            )
            if run.mlflow_run_id is not None:
                self.experiment.update_run(run.mlflow_run_id, status="RUNNING")
            run.mlflow_run_id = self.run_id
        self.run = run
        run.write()

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log parameters; on resume, changed ones become ``resumed/<name>`` tags, since MLflow forbids changes."""
        flat = {key: str(value)[:250] for key, value in _flatten(params)}
        known = self.experiment.get_run(self.run_id).data.params
        super().log_hyperparams({key: value for key, value in flat.items() if key not in known})
        for key, value in flat.items():
            if key in known and known[key] != value:
                self.tag(f"resumed/{key}", value)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Close the MLflow run."""
        with _mentioned("how the run ended"):
            super().finalize(status)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values without waiting for the store."""
        with _mentioned("metrics"):
            super().log_metrics(metrics, step)

    @rank_zero_only
    def tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        with _mentioned(f"the tag {key}"):
            self.experiment.set_tag(self.run_id, key, value[:5000])

    @rank_zero_only
    def image(self, file: Path, folder: str) -> None:
        """Attach a picture that exists as a file."""
        with _mentioned(str(file)):
            self.experiment.log_artifact(self.run_id, str(file), folder)

    @rank_zero_only
    def text(self, text: str, name: str) -> None:
        """Attach a text file."""
        with _mentioned(name):
            self.experiment.log_text(self.run_id, text, name)


@contextmanager
def _kept(variable: str) -> Iterator[str | None]:
    """Give an environment variable's value, and restore it at the end.

    MLflow writes the store it was last told into its own variable, where the next run of this process would take it for
    a person's wish.
    """
    before = os.environ.get(variable)
    try:
        yield before
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


@contextmanager
def _mentioned(what: str) -> Iterator[None]:
    """Say that MLflow could not store something, and go on.

    A tracking server that is away, or a full disk, must neither end a run that trains nor hide why it failed.
    """
    from mlflow.exceptions import MlflowException  # slow, and `--print_config` has no use for it

    try:
        yield
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        print(f"warning: MLflow could not store {what}: {reason}", file=sys.stderr)  # noqa: T201


def package_versions() -> dict[str, str]:
    """Return the installed versions of what a run depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def git_revision() -> str:
    """Return the revision of the checkout that the code runs from, or "installed" outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "installed"


def _flatten(params: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if hasattr(params, "as_dict"):
        params = params.as_dict()
    if not isinstance(params, dict):
        return [(prefix, params)]
    items: Mapping[str, Any] = params
    return [pair for key, value in items.items() for pair in _flatten(value, f"{prefix}/{key}" if prefix else str(key))]
