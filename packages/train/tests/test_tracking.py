"""Run folders and MLflow: real stores in temporary folders."""

import os
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from unipic2_train.tracking import Run, RunError, Tracker, find_checkpoint, parent_of

pytestmark = pytest.mark.mlflow


@pytest.fixture
def clean(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("UNIPIC2_RUN_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(store, run_id):
    with sqlite3.connect(store) as connection:
        return connection.execute("select status from runs where run_uuid = ?", (run_id,)).fetchone()[0]


def complete(folder):
    folder.mkdir(parents=True)
    (folder / "meta.pt").touch()
    (folder / ".metadata").touch()
    return folder


def test_the_newest_complete_checkpoint_is_found(tmp_path):
    for step in (2, 100, 30):
        complete(tmp_path / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "checkpoints" / "step-00000200").mkdir()
    complete(tmp_path / "checkpoints" / ".step-00000300.partial")
    complete(tmp_path / "checkpoints" / ".step-00000300.old")
    assert find_checkpoint(tmp_path).name == "step-00000100"
    older = tmp_path / "checkpoints" / "step-00000030"
    assert find_checkpoint(older) == older


def test_nothing_to_resume(tmp_path):
    with pytest.raises(RunError, match="holds no complete checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(RunError, match=r"not a run's folder \(no run\.json\)"):
        Run.reopen(tmp_path)


def test_a_run_is_not_started_in_another(clean):
    Run.start("pretrain", clean / "one").write()
    with pytest.raises(RunError, match="holds a run already"):
        Run.start("pretrain", clean / "one")


def test_other_ranks_write_into_the_folder_of_the_first(clean, monkeypatch):
    first = Run.start("pretrain", None)
    first.write()
    monkeypatch.setattr("unipic2_train.tracking.rank_zero_only.rank", 1)
    assert Run.start("pretrain", None).folder == first.folder


@pytest.mark.slow  # making a store takes seconds
def test_a_resumed_run_is_the_same_run_and_running_again(clean):
    run = Run.start("pretrain", clean / "runs" / "one")
    first = Tracker(run)
    first.log_hyperparams({"data": {"size": 32}, "seed": 0})
    first.log_metrics({"loss": 1.0}, 1)
    first.finalize("failed")
    store = clean / "runs" / "mlflow.db"
    assert status(store, run.mlflow_run_id) == "FAILED"

    again = Run.reopen(run.folder)
    assert again.mlflow_run_id == run.mlflow_run_id
    second = Tracker(again)
    assert status(store, run.mlflow_run_id) == "RUNNING"
    second.log_hyperparams({"data": {"size": 64}, "seed": 0, "new": "x"})
    second.log_metrics({"loss": 0.5}, 2)
    second.finalize("success")
    assert status(store, run.mlflow_run_id) == "FINISHED"
    with sqlite3.connect(store) as connection:
        params = dict(connection.execute("select key, value from params"))
        tags = dict(connection.execute("select key, value from tags where key like 'resumed/%'"))
        points = connection.execute("select step, value from metrics order by step").fetchall()
    assert params == {"data/size": "32", "seed": "0", "new": "x"}
    assert tags == {"resumed/data/size": "64"}
    assert points == [(1, 1.0), (2, 0.5)]
    assert sorted(path.name for path in clean.iterdir()) == ["runs"], "nothing beside the runs"


@pytest.mark.slow
def test_runs_of_one_process_keep_to_the_store_of_their_folder(clean):
    for folder in ("here", "there"):
        run = Run.start("pretrain", clean / folder / "one")
        Tracker(run).finalize("success")
        assert status(clean / folder / "mlflow.db", run.mlflow_run_id) == "FINISHED"
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.slow
def test_a_store_that_fails_neither_ends_the_run_nor_hides_its_error(clean, capsys):
    run = Run.start("pretrain", clean / "runs" / "one")
    tracker = Tracker(run)
    (clean / "runs" / "mlflow.db").write_bytes(b"no database any more" * 1000)
    tracker.experiment._tracking_client.store.engine.dispose()
    tracker.tag("key", "value")
    tracker.finalize("failed")
    said = capsys.readouterr().err
    assert "warning: MLflow could not store the tag key: " in said
    assert "warning: MLflow could not store how the run ended: " in said


START = """
import sys
from pathlib import Path
from unipic2_train.tracking import Run, Tracker
Tracker(Run.start("pretrain", Path(sys.argv[1]))).finalize("success")
"""


@pytest.mark.slow
def test_two_runs_may_start_at_once_in_a_new_folder(clean):
    """MLflow's own migration of a new store breaks when two do it at the same time."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(clean / "runs" / name)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name in ("one", "two")
    ]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-2000:]
    with sqlite3.connect(clean / "runs" / "mlflow.db") as connection:
        assert connection.execute("select count(*) from runs").fetchone() == (2,)


def test_what_a_stage_starts_from():
    """The lineage of a joint run has two parents."""
    config = SimpleNamespace(checkpoint="kontext", conditioner="connector")
    assert parent_of(SimpleNamespace(metaquery_config=config)) == "kontext, connector"
    config.conditioner = None
    assert parent_of(SimpleNamespace(metaquery_config=config)) == "kontext"
    assert parent_of(SimpleNamespace(kontext_config=SimpleNamespace(checkpoint="base"))) == "base"
    assert parent_of(SimpleNamespace()) is None
