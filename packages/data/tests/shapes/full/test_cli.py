import pytest

from unipic2_data import cli
from unipic2_data.errors import DataError

SMALL = {"t2i": 2, "edit": 2, "validation": 0, "test": 6, "heldout": 0, "workers": 1}


def test_writes_a_world_and_its_suite(tmp_path, capsys):
    cli.shapes(tmp_path / "world", size=64, qa=2, world="full", **SMALL)
    assert "test: 6 t2i, 6 edit, 6 qa" in capsys.readouterr().out
    said = cli.shapesbench(tmp_path / "world", tmp_path / "suite", splits="test")
    assert said.startswith("6 t2i, 6 edit, 6 qa")
    assert len((tmp_path / "suite" / "suite.jsonl").read_text().splitlines()) == 18


def test_refused(tmp_path):
    with pytest.raises(DataError, match="even number >= 64 in the full world"):
        cli.shapes(tmp_path / "world", size=32, world="full", **SMALL)
    with pytest.raises(DataError, match="the quick world has no questions; choose --world full"):
        cli.shapes(tmp_path / "world", qa=5, **SMALL)
