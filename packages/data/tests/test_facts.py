import pytest

from unipic2_data.facts import named_size, scores_of


@pytest.mark.parametrize(
    ("meta", "scores", "size"),
    [
        ({"scores": {"a": 1, "b": 2.5}, "height": 3, "width": 4}, {"a": 1, "b": 2.5}, (3, 4)),
        ({"scores": {"a": "good", "b": None, "c": 10**400, "d": 0}, "height": "3", "width": 4}, {"d": 0}, None),
        ({"scores": [1], "height": 0, "width": 4}, {}, None),
        ({"scores": None, "height": 3}, {}, None),
        ({"height": 3, "width": 10**400}, {}, None),
    ],
)
def test_scores_and_sizes_of_others_are_read_with_care(meta, scores, size):
    assert scores_of(meta) == scores
    assert named_size(meta) == size
    assert named_size([meta]) is None
