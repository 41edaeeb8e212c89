"""The detectors that data registers are the detectors that evals expects, and GenEval's rules score shapes by them."""

import pytest

from unipic2_data.randomness import keyed_rng
from unipic2_data.shapes.prompts import scene_for
from unipic2_data.shapes.render import render
from unipic2_data.shapes.scene import Draws
from unipic2_data.shapes.world import prompt_list
from unipic2_evals.geneval import evaluate
from unipic2_evals.protocols import Detected, detectors, load_detector

NAMES = ["shapes-a", "shapes-b"]


def test_both_are_installed():
    assert set(NAMES) <= set(detectors())


@pytest.mark.parametrize("name", NAMES)
def test_truth_is_correct_and_another_prompt_mostly_is_not(name):
    prompts = prompt_list("test", 30, seed=0)
    draws = Draws(keyed_rng(0, "detectors"))
    images = [render(scene_for(prompt, "test", draws), 32) for prompt in prompts]
    seen = [Detected(*pair) for pair in load_detector(name)(images)]
    right = [evaluate(*found, prompt.metadata)["correct"] for found, prompt in zip(seen, prompts, strict=True)]
    wrong = [
        evaluate(*found, prompt.metadata)["correct"]
        for found, prompt in zip(seen, prompts[1:] + prompts[:1], strict=True)
    ]
    assert all(right)
    assert sum(wrong) <= len(wrong) / 3
