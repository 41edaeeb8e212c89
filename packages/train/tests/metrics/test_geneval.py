"""GenEval as a metric: the official rules' verdicts, added up over batches and ranks."""

import os
import subprocess
import sys

import numpy as np
import pytest

from unipic2_evals.geneval import summary
from unipic2_train.metrics.geneval import GenEvalScore

LINES = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a photo of a red cat"},
]
IMAGE = np.zeros((8, 8, 3), np.uint8)


class Labelled:
    """A detector that reads the top left pixel: red = a dog, green = a red cat, blue = a faint dog."""

    def __call__(self, images):
        seen = []
        for image in images:
            red, green, blue = image[0, 0] > 0
            box = [1.0, 1.0, 6.0, 6.0, 0.2 if blue else 0.95]
            label, color = ("cat", "red") if green else ("dog", "brown")
            found = red or green or blue
            seen.append(({label: [box]} if found else {}, {label: [color]} if found else {}))
        return seen


def image(channel):
    made = IMAGE.copy()
    made[0, 0, channel] = 255
    return made


def test_scores_are_those_of_geneval_summary():
    score = GenEvalScore(Labelled())
    score.update([image(0), image(1)], LINES)
    score.update([image(2), image(1)], LINES)
    records = [
        {"tag": line["tag"], "metadata": line["prompt"], "correct": correct}
        for line, correct in zip(LINES * 2, (True, True, False, True), strict=True)
    ]
    expected = summary(records)
    values = {name: float(value) for name, value in score.compute().items()}
    assert values == {**expected["tasks"], "images": 0.75, "overall": 0.75}
    interval = score.intervals()["single_object"]
    assert interval.mean == 0.5
    assert interval.total == 2
    score.reset()
    assert score.compute() == {}


def test_thresholds_are_passed_on():
    score = GenEvalScore(Labelled(), thresholds={"threshold": 0.1})
    score.update([image(2)], LINES[:1])
    assert float(score.compute()["single_object"]) == 1.0


def test_a_wrong_number_of_images_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        GenEvalScore(Labelled()).update([IMAGE], LINES)


RANK = """
import sys, json, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_geneval import *
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=2)
score = GenEvalScore(Labelled())
seen = [([image(0)], LINES[:1]), ([image(2), image(1), image(1)], [*LINES, LINES[1]])]
score.update(*seen[rank])
print(json.dumps({name: float(value) for name, value in score.compute().items()}))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_agree_on_all_images(tmp_path):
    """Rank 0 judges one image, rank 1 three."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK, os.path.dirname(__file__)]  # noqa: PTH120 - a path for sys.path
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, env=environment)
        for rank in range(2)
    ]
    said = {process.communicate(timeout=120)[0] for process in ranks}
    assert said == {b'{"single_object": 0.5, "colors": 1.0, "images": 0.75, "overall": 0.75}\n'}
