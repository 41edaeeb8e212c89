"""A small grid whose cells cost nothing: trained by writing a file, scored by numbers that the arm and seed decide."""

import numpy as np
import pytest

from unipic2_train.reproduce.grid import Cell, Claim, Grid

PROMPTS = [f"prompt {number}" for number in range(40)]
LEVEL = {"base": 0.3, "better": 0.5, "child": 0.3}


def score(run):
    arm, _, seed = run.name.rpartition("-seed")
    rng = np.random.default_rng(int(seed))
    noise = 0.1 * rng.normal(size=len(PROMPTS)) + 0.05 * rng.normal()
    values = (noise + LEVEL[arm]).tolist()
    groups = ["easy" if number < 30 else "hard" for number in range(len(PROMPTS))]
    return {"exact": {"prompts": PROMPTS, "groups": groups, "values": values}}, []


def make_grid(seeds=2, **changed):
    cells = [
        Cell(arm, seed, "pretrain", {"trainer": {"max_steps": 1}}, parent)
        for seed in range(seeds)
        for arm, parent in (("base", None), ("better", None), ("child", "base"))
    ]
    claims = [
        Claim("A", "better is better", "exact", "base", "better", part_of="C0"),
        Claim("B", "child is not lower", "exact", "base", "child", 0.02, "C0"),
        Claim("C", "base is better than better", "exact", "better", "base"),
    ]
    arms = {"base": "the first", "better": "the second", "child": "goes on from the first"}
    measures = {"exact": "exact scenes"}
    settings = {"steps": 1} | changed
    return Grid("test", "A test", ["Designed so."], arms, measures, claims, cells, score, settings)


class Workers:
    """Trains cells and keeps a list of what was trained; one cell may stop it."""

    def __init__(self):
        self.trained = []
        self.stop_at = None

    def __call__(self, cell, run, parent):
        if cell.name == self.stop_at:
            raise KeyboardInterrupt
        assert parent is None or (parent / "model").is_file()
        run.mkdir(parents=True)
        (run / "model").write_text(cell.name)
        self.trained.append(cell.name)
        return 60.0


@pytest.fixture
def train():
    return Workers()


@pytest.fixture
def small_grid():
    return make_grid
