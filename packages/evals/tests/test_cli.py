"""The command, run as a person runs it: quick help, a detector that is installed, a table, errors without traceback."""

import json
import re
import subprocess
import sys
import time

import pytest
from PIL import Image

DETECTOR = """
class Reds:
    def __call__(self, images):
        return [({"dog": [[0, 0, 9, 9, 0.99]]} if image[0, 0, 0] > 99 else {}, {"dog": ["red"]}) for image in images]
"""


def run(*arguments, cwd):
    command = [sys.executable, "-c", "from unipic2_evals.cli import main; main()", *map(str, arguments)]
    environment = {"PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(cwd)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120, env=environment)


@pytest.fixture
def images(tmp_path):
    """Two prompts, two images each; a detector that sees dogs in the red ones is installed."""
    (tmp_path / "reds.py").write_text(DETECTOR)
    info = tmp_path / "reds-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reds\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unipic2.detectors]\nreds = reds:Reds\n")
    for prompt in range(2):
        samples = tmp_path / "out" / f"{prompt:05}" / "samples"
        samples.mkdir(parents=True)
        metadata = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": f"dog {prompt}"}
        (samples.parent / "metadata.jsonl").write_text(json.dumps(metadata))
        for number in range(2):
            Image.new("RGB", (4, 4), (200 * number, 100 * prompt, 0)).save(samples / f"{number:05}.png")
    return tmp_path


def test_score_with_a_detector_and_replay(images):
    score = ("score", "--bench", "geneval", "--dir", "out", "--samples", 2)
    first = run(*score, "--judge", "reds", cwd=images)
    assert first.returncode == 0, first.stderr
    assert "| overall       | 0.500 [0.500, 0.500] |" in first.stdout
    assert "reds (reds 1.0)" in first.stdout
    assert len((images / "out-scores/answers.jsonl").read_text().splitlines()) == 4
    report = json.loads((images / "out-scores/scores.json").read_text())
    second = run(*score, "--judge-id", "reds", cwd=images)
    assert second.returncode == 0, second.stderr
    assert json.loads((images / "out-scores/scores.json").read_text()) == report


def test_compare(images):
    score = ("score", "--bench", "geneval", "--dir", "out", "--samples", 2, "--judge", "reds", "--report")
    assert run(*score, "first", cwd=images).returncode == 0
    Image.new("RGB", (4, 4), (255, 0, 0)).save(images / "out/00000/samples/00000.png")
    assert run(*score, "second", cwd=images).returncode == 0
    done = run("compare", "first", "second/scores.json", "--page", "new/page.html", cwd=images)
    assert done.returncode == 0, done.stderr
    assert "| 0.500 | 0.750 | 0.250 [0.000, 0.500] | not shown |     4 |" in done.stdout
    assert "dog 0" in (images / "new/page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("geneval", "out"), "expected answers of one judge, found 0"),
        (("geneval", "nowhere"), "nowhere: no folder"),
        (("geneval", "out", "--judge", "blues"), "--judge: expected one of replay, .*reds.*got 'blues'"),
        (("geneval", "out", "--judge", "reds"), "4 of 8 items are missing"),
        (("geneval", "out", "--judge", "reds", "--judge_id", "x"), "choose among answers of --judge replay"),
        (("dpg", "out"), "dpg: --data is missing"),
    ],
)
def test_errors_have_no_traceback(images, arguments, message):
    bench, folder, *others = arguments
    done = run("score", "--bench", bench, "--dir", folder, *others, cwd=images)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr)


def test_help_is_quick(tmp_path):
    start = time.perf_counter()
    done = run("score", "--help", cwd=tmp_path)
    assert "--missing" in done.stdout
    assert time.perf_counter() - start < 10  # 0.6 s on an idle core
