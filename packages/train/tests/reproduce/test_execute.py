"""Cells run once, parents first, and are gone on with after a stop."""

import json

import pytest
import yaml
from filelock import FileLock

from unipic2_train.reproduce import execute
from unipic2_train.reproduce.execute import GridError, committed, run_grid
from unipic2_train.reproduce.grid import Cell

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(execute, "WAIT", 0.01)


def test_parents_run_once_and_before_their_children(small_grid, train, tmp_path):
    run_grid(small_grid(), tmp_path, train)
    assert sorted(train.trained) == sorted(cell.name for cell in small_grid().cells)
    assert train.trained.index("base-seed1") < train.trained.index("child-seed1")
    cell = json.loads((tmp_path / "cells" / "child-seed1.json").read_text())
    facts = {"arm": "child", "seed": 1, "parent": "base", "training_seconds": 60.0, "run": "runs/child-seed1"}
    assert facts.items() <= cell.items()
    assert {"hardware", "git_revision", "versions", "date"} <= set(cell)
    assert len(cell["scores"]["exact"]["values"]) == 40


def test_a_finished_cell_is_never_run_again(small_grid, train, tmp_path):
    train.stop_at = "child-seed0"
    with pytest.raises(KeyboardInterrupt):
        run_grid(small_grid(), tmp_path, train)
    assert list(committed(small_grid(), tmp_path)) == ["base-seed0", "better-seed0"]
    train.stop_at = None
    run_grid(small_grid(), tmp_path, train)
    assert sorted(train.trained) == sorted(cell.name for cell in small_grid().cells), "each once"
    before = list(train.trained)
    run_grid(small_grid(), tmp_path, train)
    assert train.trained == before


def test_seeds_can_be_added(small_grid, train, tmp_path):
    run_grid(small_grid(1), tmp_path, train)
    run_grid(small_grid(3), tmp_path, train)
    assert len(train.trained) == 9
    assert len(committed(small_grid(2), tmp_path)) == 6


def test_another_grid_is_refused(small_grid, train, tmp_path):
    run_grid(small_grid(1), tmp_path, train)
    with pytest.raises(GridError, match=r"holds another grid \(steps: 1 then, 2 now\)"):
        run_grid(small_grid(1, steps=2), tmp_path, train)


def test_a_cell_without_a_stage_is_its_parent_s_model_under_other_settings(tmp_path):
    parent, run = tmp_path / "runs" / "base-seed0", tmp_path / "runs" / "guided-seed0"
    (parent / "export").mkdir(parents=True)
    (parent / "export" / "model").write_text("weights")
    (parent / "config.yaml").write_text("model: {sampling: {steps: 2, guidance: 1.0}}")
    cell = Cell("guided", 0, None, {"model": {"sampling": {"guidance": 2.0}}}, "base")
    assert [execute.train_cell(cell, run, parent) for _ in range(2)] == [0.0, 0.0]
    assert (run / "export" / "model").read_text() == "weights"
    assert yaml.safe_load((run / "config.yaml").read_text()) == {"model": {"sampling": {"steps": 2, "guidance": 2.0}}}


def test_a_cell_may_be_a_model_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path / "home"))
    cell = Cell("ready", 0, None, {"model": {"sampling": {"steps": 2}}}, model="home:tiny/connector")
    run = tmp_path / "runs" / cell.name
    with pytest.raises(ValueError, match=r"home:tiny/connector does not exist yet .*`lightning run connector`"):
        execute.train_cell(cell, run, None)
    (tmp_path / "home" / "tiny" / "connector").mkdir(parents=True)
    (tmp_path / "home" / "tiny" / "connector" / "model").write_text("weights")
    assert execute.train_cell(cell, run, None) == 0.0
    assert (run / "export" / "model").read_text() == "weights"
    assert yaml.safe_load((run / "config.yaml").read_text()) == cell.recipe


def test_a_cell_that_another_process_holds_is_passed_over_and_waited_for(small_grid, train, tmp_path):
    (tmp_path / "cells").mkdir()
    held = FileLock(tmp_path / "cells" / ".base-seed0.lock")
    held.acquire()

    def freeing(cell, run, parent):
        if cell.name == "better-seed0":
            held.release()  # the other process died without finishing
        return train(cell, run, parent)

    run_grid(small_grid(1), tmp_path, freeing)
    assert train.trained == ["better-seed0", "base-seed0", "child-seed0"]
