"""Training runs as people start them, for the tests named ``test_train_*``.

The debug preset and an empty MLflow store are made once, whatever the processes that run the tests, and copied: each of
these has a ``$UNIPIC2_HOME`` of its own, and each module a folder for its runs, so that their names can not collide.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock

BIN = Path(sys.executable).parent
PROBES = Path(__file__).parent / "probes"
"""Callbacks for tests; importable by class path in all runs."""

CALLBACKS = """
    - class_path: unipic2_train.callbacks.ema.ExponentialMovingAverage
      init_args: {{decay: 0.9}}
    - class_path: unipic2_train.callbacks.monitor.TrainingMonitor
      init_args: {{every_n_steps: 1}}
    - class_path: unipic2_train.callbacks.samples.SampleGrid
      init_args: {{samples: 2}}
    - class_path: unipic2_train.callbacks.samples.ShapesEvaluation
      init_args: {{validation_samples: 2, test_samples: 4}}
    - class_path: unipic2_train.callbacks.checkpoint.TrainingCheckpoint
      init_args: {{every_n_steps: {every}, keep: {keep}}}
    - class_path: unipic2_train.callbacks.export.ExportModel
"""


@dataclass
class Workshop:
    """Where runs are made, and how.

    Attributes:
        folder: The module's own.
        home: ``$UNIPIC2_HOME``.
        empty_store: MLflow's database before the first run.
    """

    folder: Path
    home: Path
    empty_store: Path

    def store_in(self, folder: Path) -> None:
        """Put an empty MLflow store where runs will be made; they would make it themselves, in seconds."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.empty_store, folder / "mlflow.db")

    def environment(self) -> dict[str, str]:
        """Return what a person's shell would give, and little else."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, "UNIPIC2_HOME": str(self.home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROBES)}

    def start(self, *words: object, program: str = "lightning", **popen: object) -> subprocess.Popen[str]:
        """Start a command in the workshop's folder."""
        return subprocess.Popen(
            [str(BIN / program), *map(str, words)],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Started in the background, the test run ignores Ctrl-C, and so would its children: a terminal's do not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **popen,
        )

    def command(
        self, *words: object, program: str = "lightning", timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        process = self.start(*words, program=program, start_new_session=True)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, err = process.communicate()
            pytest.fail(f"{words} hung:\n{out[-3000:]}\n{err[-3000:]}")
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def succeed(self, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command that has to succeed."""
        done = self.command(*words, **options)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done

    def run_here(self, stage: str, *words: object) -> Path:
        """Run a stage in this process, which saves the imports, and return the run's folder."""
        from unipic2_train.cli import run_stage

        return run_stage(stage, list(map(str, words)))

    def recipe(
        self, name: str, *, steps: int, every: int, keep: int = -1, base: str = "pretrain/debug", more: str = ""
    ) -> Path:
        """Write a recipe: so many steps, validation and checkpoint every so many, all metrics at every step.

        Args:
            name: Of the file.
            steps: Optimiser steps.
            every: Optimiser steps between validations, and between checkpoints.
            keep: Checkpoints to keep.
            base: Recipe below it.
            more: YAML to append: more callbacks, or keys.
        """
        file = self.folder / f"{name}.yaml"
        trainer = f"trainer:\n  max_steps: {steps}\n  val_check_interval: {every}\n  callbacks:{CALLBACKS}"
        file.write_text(f"layers: [{base}]\n{trainer.format(every=every, keep=keep)}{more}")
        return file

    def metrics(self, run: Path) -> dict[str, dict[int, list[float]]]:
        """Return all values of a run in MLflow, by name and step, in the order in which they were logged."""
        identity = _identity(run)
        values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        with sqlite3.connect(run.parent / "mlflow.db") as store:
            rows = store.execute(
                "select key, step, value from metrics where run_uuid = ? order by timestamp", (identity,)
            )
            for key, step, value in rows:
                values[key][step].append(value)
        return values

    def losses(self, run: Path) -> dict[int, list[float]]:
        """Return the training losses by step: each step has one kind of sample."""
        found: dict[int, list[float]] = defaultdict(list)
        for key, steps in self.metrics(run).items():
            if key in {"train/loss_t2i", "train/loss_edit"}:
                for step, values in steps.items():
                    found[step] += values
        return dict(sorted(found.items()))

    def status(self, run: Path) -> str:
        """Return the state of the run in MLflow."""
        with sqlite3.connect(run.parent / "mlflow.db") as store:
            (row,) = store.execute("select status from runs where run_uuid = ?", (_identity(run),))
        return row[0]


def _identity(run: Path) -> str:
    import json

    return json.loads((run / "run.json").read_text())["mlflow_run_id"]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``home``, the debug preset, and ``mlflow.db``, an empty store; one for all of xdist's workers."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "made-once"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIPIC2_HOME", str(folder / "home"))
        from mlflow import MlflowClient

        from unipic2_train import home

        home.provide("home:debug/foundation")
        home.provide("home:debug/shapes")
        store = folder / "mlflow.db"
        if not store.exists():
            partial = folder / "partial.db"
            MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
            partial.rename(store)
    return folder


@pytest.fixture(scope="session")
def home_folder(made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the debug preset, where this process's tests add what they make."""
    return shutil.copytree(made_once / "home", tmp_path_factory.mktemp("home"), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def workshop(
    request: pytest.FixtureRequest, made_once: Path, home_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workshop]:
    """A folder for this module's runs, and a home with the debug preset."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])
    made = Workshop(folder, home_folder, made_once / "mlflow.db")
    made.store_in(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIPIC2_HOME", str(made.home))
        patch.syspath_prepend(str(PROBES))
        patch.chdir(folder)
        yield made


@pytest.fixture(scope="module")
def model(workshop: Workshop) -> Path:
    """A Kontext model as `pretrain` exports it, its transformer new but for its output."""
    from unipic2_train import export, home
    from unipic2_train.system import FrozenParts, build_transformer

    foundation = home.provide("home:debug/foundation")
    transformer = build_transformer(foundation, "scratch")
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    folder = workshop.folder / "kontext"
    export.save_model(folder, transformer, export.trained_values(transformer), FrozenParts(foundation), {})
    return folder
