"""What benchmarks ask for: the official prompts, paths and counts, and errors that name what is missing."""

import json
from pathlib import Path

import pytest

from unipic2_evals.geneval_suite import prompt_suite
from unipic2_train.benchmarks.command import sample
from unipic2_train.benchmarks.readers import READERS, DataOptions, read_suite
from unipic2_train.benchmarks.suite import Suite, Work, picture_seed

OUT = Path("runs/mymodel")


def options_of(bench, official):
    files = {
        "geneval": {},
        "dpg": {"data": official / "dpg"},
        "gedit": {"data": official / "gedit.jsonl"},
        "imgedit": {"data": official / "basic_edit.json", "sources": official / "sources"},
        "geneval2": {"data": official / "geneval2_data.jsonl"},
        "gedit2": {"data": official / "gedit2"},
    }
    return DataOptions(**files[bench])


def test_geneval_is_the_official_suite():
    suite = read_suite("geneval", OUT, DataOptions())
    assert suite.deviations() == []
    assert len(suite.works) == 553 * 4
    assert suite.digest == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
    work = suite.works[4 * 180 + 2]
    assert (work.key, work.number, work.file) == ("00180", 2, "00180/samples/00002.png")
    assert json.loads(work.texts["00180/metadata.jsonl"]) == prompt_suite()[180]


FILES = {
    "dpg": ["2.png", "partiprompts10.png", "vrd7.png"],
    "gedit": [f"fullset/{path}.png" for path in ("style_change/en/k0", "ps_human/en/k1", "ps_human/cn/k2")],
    "imgedit": ["100.png", "101.png", "102.png"],
    "geneval2": ["images/00000.png", "images/00001.png", "images/00002.png"],
    "gedit2": ["e0.png", "e1.png", "e2.png"],
}


@pytest.mark.parametrize("bench", FILES)
def test_files_lie_where_the_official_scorer_looks(bench, official):
    suite = read_suite(bench, OUT, options_of(bench, official))
    assert [work.file for work in suite.works] == FILES[bench]
    assert all(work.prompt and work.prompt == work.prompt.strip() for work in suite.works)
    assert suite.deviations(), "three items are not the published benchmark"
    assert len(suite.digest) == 64
    edits = bench in {"gedit", "imgedit", "gedit2"}
    assert all((work.source is not None) == edits for work in suite.works)
    if bench == "gedit":
        assert suite.works[1].copy == "fullset/ps_human/en/k1_SRCIMG.png"
        assert suite.works[0].source.pixels().shape == (24, 32, 3)


def test_gedit_in_parquet_and_in_one_language(official, tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [json.loads(line) for line in (official / "gedit.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["input_image"] = {"bytes": b"picture", "path": None}
        row["input_image_raw"] = "large"
        parquet.write_table(pa.Table.from_pylist([row]), tmp_path / f"train-{number}.parquet")
    suite = read_suite("gedit", OUT, DataOptions(data=tmp_path, language="cn"))
    assert [work.key for work in suite.works] == ["ps_human/cn/k2"]
    assert suite.works[0].source.data == b"picture"
    assert suite.counts == {"rows in en": 2, "rows in cn": 1}
    with pytest.raises(ValueError, match="expected en or cn, got 'zh'"):
        read_suite("gedit", OUT, DataOptions(data=tmp_path, language="zh"))


def test_check_data_counts(official):
    assert "553 prompts, as published" in sample("geneval", check_data=True)
    with pytest.raises(ValueError, match="dpg: expected 1065 prompts, found 3"):
        sample("dpg", data=official / "dpg", check_data=True)
    with pytest.raises(ValueError, match="expected 606 rows in en, found 2; gedit: expected 606 rows in cn, found 1"):
        sample("gedit", data=official / "gedit.jsonl", check_data=True)


@pytest.mark.parametrize("bench", [bench for bench in READERS if bench != "geneval"])
def test_missing_data_is_named(bench, tmp_path):
    with pytest.raises(ValueError, match=f"{bench}: --data is missing: "):
        read_suite(bench, OUT, DataOptions())
    with pytest.raises(ValueError, match=f"{bench}: --data .*absent does not exist"):
        read_suite(bench, OUT, DataOptions(data=tmp_path / "absent"))


@pytest.mark.parametrize(
    ("bench", "options", "says"),
    [
        ("geneva", {}, "bench: expected one of geneval, dpg"),
        ("geneval2", {"samples": 2}, "--samples means nothing to geneval2; .* it takes --data"),
        ("dpg", {"data": Path(__file__).parent}, "expected the prompts of DPG-Bench, a .txt file each, found none"),
        ("dpg", {"data": Path(__file__).parent, "samples": 3}, "tiles, 1 or 4, not 3"),
        ("imgedit", {"data": Path(__file__)}, "imgedit: --sources is missing"),
        ("imgedit", {"data": Path(__file__).parent}, "is no file; expected basic_edit.json"),
    ],
)
def test_wrong_options_are_named(bench, options, says):
    with pytest.raises(ValueError, match=says):
        read_suite(bench, OUT, DataOptions(**options))


def test_a_source_that_is_absent_is_named(official, tmp_path):
    with pytest.raises(ValueError, match=r"'100' in .*: its source image .*0\.png does not exist"):
        read_suite("imgedit", OUT, DataOptions(data=official / "basic_edit.json", sources=tmp_path))


def test_two_works_of_one_file_are_refused():
    with pytest.raises(ValueError, match=r"two prompts would write a\.png"):
        Suite("x", [Work("1", "p", "a.png"), Work("2", "p", "a.png")], "", {}, {}, {})


def test_seeds_differ_by_everything_that_names_a_picture():
    named = [(0, "geneval", "00001", 0), (1, "geneval", "00001", 0), (0, "dpg", "00001", 0), (0, "geneval", "00001", 1)]
    assert len({picture_seed(*name) for name in named}) == 4
    assert picture_seed(0, "geneval", "00001", 0) == picture_seed(0, "geneval", "00001", 0) < 2**63


def test_sampling_needs_a_model_and_a_folder():
    with pytest.raises(ValueError, match="sample needs --checkpoint"):
        sample("geneval")
