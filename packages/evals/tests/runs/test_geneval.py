"""GenEval's folder: what is there, what is missing, and that the rules get what they take."""

import json

import pytest
from PIL import Image

from unipic2_evals.runs import Options
from unipic2_evals.runs.geneval import GenEvalRun

SUITE = [
    {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "a photo of a red car"},
    {
        "tag": "counting",
        "include": [{"class": "dog", "count": 2}],
        "exclude": [{"class": "dog", "count": 3}],
        "prompt": "a photo of two dogs",
    },
]
BLUE_FIRST = {
    "objects": {"car": [[0, 0, 9, 9, 0.2], [0, 0, 9, 9, 0.8], [20, 0, 29, 9, 0.9]]},
    "colors": {"car": ["green", "red", "blue"]},
}


@pytest.fixture
def folder(tmp_path):
    for index, metadata in enumerate(SUITE):
        samples = tmp_path / "out" / f"{index:05}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(metadata))
        for number in range(2):
            Image.new("RGB", (4, 4), (index, number, 0)).save(samples / f"{number:05}.png")
    return tmp_path / "out"


def test_items(folder):
    (folder / "00001/samples/00000.png").unlink()
    (folder / "00001/samples/notes.txt").write_text("")
    items = GenEvalRun(folder, Options(samples=2)).items()
    assert [(item.key, bool(item.missing)) for item in items] == [
        ("00000/0", False),
        ("00000/1", False),
        ("00001/1", False),
        ("00001/0", True),
    ]


def test_whole_prompts_are_missed_with_the_suite(folder, tmp_path):
    suite = tmp_path / "suite.jsonl"
    suite.write_text("".join(json.dumps(row) + "\n" for row in [*SUITE, SUITE[0]]))
    items = GenEvalRun(folder, Options(samples=2, data=suite)).items()
    assert [item.key for item in items if item.missing] == ["00002/0", "00002/1"]
    (folder / "00000" / "metadata.jsonl").write_text(json.dumps(SUITE[1]))
    with pytest.raises(ValueError, match=r"00000: metadata\.jsonl is not line 0 .* another suite"):
        GenEvalRun(folder, Options(data=suite)).items()


def test_rules_and_quirks(folder):
    official, mended = (GenEvalRun(folder, Options(official=quirks)) for quirks in (True, False))
    item = official.items()[0]
    assert official.score(item, [BLUE_FIRST]).values == {"correct": 0.0}
    assert "found 0 red; and 1 blue" in official.score(item, [BLUE_FIRST]).note
    assert mended.score(item, [BLUE_FIRST]).values == {"correct": 1.0}
    assert official.quirks
    assert mended.quirks == ()


def test_thresholds(folder):
    seen = {"objects": {"dog": [[0, 0, 9, 9, 0.8], [20, 0, 29, 9, 0.95], [40, 0, 49, 9, 0.85]]}, "colors": {}}
    verdicts = {}
    for threshold in (None, 0.82, 0.7):
        run = GenEvalRun(folder, Options(counting_threshold=threshold))
        item = next(item for item in run.items() if item.group == "counting")
        verdicts[threshold] = run.score(item, [seen]).values["correct"]
    assert verdicts == {None: 0.0, 0.82: 1.0, 0.7: 0.0}  # one dog, two dogs, three dogs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(sources="x"), "--sources means nothing to geneval; it takes --data, --samples"),
        (Options(data="empty"), r"expected folders .* are none"),
    ],
)
def test_refused(folder, tmp_path, options, message):
    if options.data:
        (tmp_path / "empty").write_text("")
        options = options._replace(data=tmp_path / "empty")
    with pytest.raises(ValueError, match=message):
        GenEvalRun(folder, options).items()


def test_folder_without_prompts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        GenEvalRun(tmp_path, Options()).items()
    (tmp_path / "00000").mkdir()
    with pytest.raises(ValueError, match=r"00000/metadata\.jsonl: missing"):
        GenEvalRun(tmp_path, Options()).items()
