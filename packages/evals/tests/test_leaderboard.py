"""Every number has a source; the page in the repository is what the data file gives."""

import copy
import json
from pathlib import Path

import pytest

from unipic2_evals.leaderboard import leaderboard_page, main

DATA = {
    "as_of": "2026-01-01",
    "columns": {"geneval": "GenEval", "dpg": "DPG"},
    "sources": {"a": {"where": "paper A", "kind": "primary"}, "b": {"where": "page B", "kind": "secondary"}},
    "tables": {
        "All": [
            {
                "model": "M",
                "size": "2B",
                "note": "with rewritten prompts",
                "scores": {"geneval": [{"value": ".80", "source": "a"}, {"value": ".82", "source": "b"}]},
            }
        ]
    },
}


def test_page():
    text = leaderboard_page(DATA, "data.json")
    cells = next(line for line in text.splitlines() if line.startswith("| M ")).split("|")
    assert [cell.strip() for cell in cells] == ["", "M", "2B", "", ".80 (1), .82 (2)", "", ""]
    assert "- M: with rewritten prompts." in text
    assert "1. paper A.\n2. page B; second hand" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["tables"]["All"][0]["scores"]["geneval"][0].pop("source"), "no 'source'"),
        (lambda data: data["tables"]["All"][0]["scores"]["geneval"].pop(), r"no number names: \['b'\]"),
        (lambda data: data["sources"].pop("a"), "geneval of M: unknown source 'a'"),
        (lambda data: data["tables"]["All"][0]["scores"].clear(), "scores of M: expected some of"),
        (lambda data: data["tables"]["All"][0]["scores"].update(x=[]), "scores of M: expected some of"),
        (lambda data: data["sources"]["a"].update(kind="hearsay"), "expected kind primary or secondary"),
    ],
)
def test_numbers_without_a_source_are_refused(change, message):
    data = copy.deepcopy(DATA)
    change(data)
    with pytest.raises(ValueError, match=message):
        leaderboard_page(data, "data.json")


def test_page_is_written_beside_the_data(tmp_path):
    (tmp_path / "l.json").write_text(json.dumps(DATA))
    main([str(tmp_path / "l.json")])
    assert (tmp_path / "l.md").read_text() == leaderboard_page(DATA, "l.json")
    with pytest.raises(ValueError, match="expected one argument"):
        main([])


def test_page_of_the_repository_is_current():
    folder = Path(__file__).parents[3] / "docs" / "results"
    if not folder.is_dir():
        pytest.skip("the package is tested alone")
    data = json.loads((folder / "leaderboard.json").read_text())
    assert (folder / "leaderboard.md").read_text() == leaderboard_page(data, "leaderboard.json")
