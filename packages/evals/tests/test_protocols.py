"""Detectors are found by entry point: a real installed distribution, made in a temporary folder."""

import sys

import numpy as np
import pytest

from unipic2_evals.geneval import evaluate
from unipic2_evals.protocols import Detected, detectors, load_detector

MODULE = """
class RedEverywhere:
    def __call__(self, images):
        corners = [(image.shape[1] - 1, image.shape[0] - 1) for image in images]
        return [({"patch": [[0, 0, right, bottom, 1.0]]}, {"patch": ["red"]}) for right, bottom in corners]
"""


@pytest.fixture
def installed_detector(tmp_path, monkeypatch):
    (tmp_path / "patch_detector.py").write_text(MODULE)
    info = tmp_path / "patch_detector-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: patch-detector\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unipic2.detectors]\nreds = patch_detector:RedEverywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "reds"
    sys.modules.pop("patch_detector", None)


def test_installed_detector_is_found_without_being_imported(installed_detector):
    assert installed_detector in detectors()
    assert "patch_detector" not in sys.modules


def test_installed_detector_scores(installed_detector):
    image = np.zeros((8, 12, 3), dtype=np.uint8)
    (seen,) = load_detector(installed_detector)([image])
    clause = {"include": [{"class": "patch", "count": 1, "color": "red"}]}
    assert evaluate(*Detected(*seen), clause)["correct"]


def test_unknown_detector_lists_the_installed_ones(installed_detector):
    with pytest.raises(ValueError, match=r"no detector 'blues' is installed; installed: .*reds"):
        load_detector("blues")
