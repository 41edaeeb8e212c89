import pytest
import torch

from unipic2_train.metrics.answers import AnswerScore


def test_a_question_counts_only_if_every_rotation_is_right():
    score = AnswerScore()
    assert score.compute() == {}
    right = torch.tensor([[True] * 4, [True, True, False, True], [False, True, True, True]])
    score.update(right, ["exist", "exist", "count"])
    found = {name: round(float(value), 3) for name, value in score.compute().items()}
    assert found == {"exist": 0.5, "count": 0.0, "overall": 0.25, "vanilla": 0.5}
    rows = {row["category"]: row for row in score.rows()}
    assert (rows["exist"]["correct"], rows["exist"]["total"], rows["all"]["total"]) == (1, 2, 3)
    assert rows["exist"]["low"] < 0.5 < rows["exist"]["high"]


def test_an_unknown_discipline():
    with pytest.raises(ValueError, match="not in tuple"):
        AnswerScore().update(torch.ones(1, 4, dtype=torch.bool), ["poetry"])
