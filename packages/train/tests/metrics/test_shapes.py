import pytest
import torch

from unipic2_train.metrics.shapes import CATEGORIES, ShapesScore


def pictures(pixels):
    return pixels.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1)


@pytest.fixture
def samples(batch):
    return {kind: batch(kind, 24) for kind in CATEGORIES}


def scored(samples, images):
    score = ShapesScore()
    for kind, batch in samples.items():
        score.update(kind, images(batch), batch.meta)
    return score


def test_true_pictures_score_one(samples):
    score = scored(samples, lambda batch: pictures(batch.pixels))
    values = score.compute()
    assert values.pop("edit/copy_rate") == 0.0
    assert {name: float(value) for name, value in values.items()} == dict.fromkeys(values, 1.0)
    assert {"t2i/exact", "t2i/geneval", "edit/exact"} <= set(values)


def test_blank_pictures_score_nothing(samples):
    values = scored(samples, lambda batch: torch.full((len(batch), 32, 32, 3), 255, dtype=torch.uint8)).compute()
    assert float(values["t2i/exact"]) == float(values["t2i/geneval"]) == float(values["edit/exact"]) == 0.0
    assert float(values["edit/copy_rate"]) == 0.0


def test_returned_sources_are_copies_and_not_edits(samples):
    values = scored({"edit": samples["edit"]}, lambda batch: pictures(batch.references)).compute()
    assert float(values["edit/copy_rate"]) == 1.0
    assert float(values["edit/exact"]) == 0.0
    assert not any(name.startswith("t2i") for name in values)


def test_pictures_of_other_prompts_score_little(samples):
    values = scored({"t2i": samples["t2i"]}, lambda batch: pictures(batch.pixels).roll(1, 0)).compute()
    assert float(values["t2i/exact"]) < 0.3


def test_an_extra_object_is_accepted_by_geneval_and_not_exact(samples):
    """GenEval's single object looks for one thing; an exact scene shows nothing else."""
    batch = samples["t2i"]
    rows = [index for index, meta in enumerate(batch.meta) if meta["task"] == "single_object"]
    others = [index for index, meta in enumerate(batch.meta) if meta["task"] == "two_object"]
    assert rows
    assert others
    score = ShapesScore()
    image = pictures(batch.pixels)[others[:1]]
    named = batch.meta[others[0]]["shapes"]["metadata"]["include"][0]["class"]
    meta = {**batch.meta[rows[0]], "shapes": {**batch.meta[rows[0]]["shapes"]}}
    include = {"tag": "single_object", "include": [{"class": named, "count": 1}]}
    meta["shapes"]["metadata"] = {**meta["shapes"]["metadata"], **include}
    score.update("t2i", image, [meta])
    values = score.compute()
    assert float(values["t2i/geneval"]) == 1.0
    assert float(values["t2i/exact"]) == 0.0


def test_rows_count_and_bound(samples):
    score = scored(samples, lambda batch: pictures(batch.pixels))
    rows = score.rows()
    for kind in CATEGORIES:
        (whole,) = [row for row in rows if row["kind"] == kind and row["category"] == "all"]
        parts = [row for row in rows if row["kind"] == kind and row["category"] != "all"]
        assert whole["total"] == 24 == sum(row["total"] for row in parts)
        assert whole["correct"] == 24
        assert 0.8 < whole["low"] < whole["accuracy"] == 1.0
        assert whole["high"] == pytest.approx(1.0)


def test_batches_add_up(samples):
    whole = scored(samples, lambda batch: pictures(batch.pixels))
    again = scored(samples, lambda batch: pictures(batch.pixels))
    again.update("t2i", torch.zeros(24, 32, 32, 3, dtype=torch.uint8), samples["t2i"].meta)
    assert float(again.compute()["t2i/exact"]) == 0.5 * float(whole.compute()["t2i/exact"])
    again.reset()
    assert again.compute() == {}


def test_a_wrong_number_of_pictures_is_an_error(samples):
    with pytest.raises(ValueError, match="zip"):
        ShapesScore().update("t2i", torch.zeros(3, 32, 32, 3, dtype=torch.uint8), samples["t2i"].meta)
