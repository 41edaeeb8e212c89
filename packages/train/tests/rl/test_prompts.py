from collections import Counter

import pytest

from unipic2_data.shapes.prompts import PROMPTS
from unipic2_evals.geneval_suite import prompt_suite
from unipic2_train.rl.prompts import TAG_WEIGHTS, PromptsConfig, make_prompts


@pytest.mark.parametrize("source", ["shapes", "geneval"])
def test_categories_come_in_flow_grpo_s_ratio(source):
    rows = make_prompts(PromptsConfig(source, rows=1700))
    assert Counter(row.meta["task"] for row in rows) == {tag: 100 * weight for tag, weight in TAG_WEIGHTS.items()}
    assert len({row.key for row in rows}) == len(rows)
    assert rows == make_prompts(PromptsConfig(source, rows=1700))


def test_no_test_prompt_is_trained_on():
    test = {prompt["prompt"] for prompt in prompt_suite()}
    rows = make_prompts(PromptsConfig("geneval", rows=3400, seed=43))  # the official suite's own seed
    assert not {row.text for row in rows} & test
    assert all(row.meta["metadata"]["prompt"] == row.text for row in rows)
    train = {prompt.text for prompts in PROMPTS["train"].values() for prompt in prompts}
    others = {
        p.text for split in ("validation", "test", "heldout") for prompts in PROMPTS[split].values() for p in prompts
    }
    shown = {row.text for row in make_prompts(PromptsConfig("shapes", rows=3400))}
    assert shown <= train
    assert not shown & others


@pytest.mark.parametrize("weights", [{"poem": 1.0}, {"colors": 0.0}, {}])
def test_unknown_categories(weights):
    with pytest.raises(ValueError, match="categories are"):
        make_prompts(PromptsConfig("shapes", weights=weights, rows=10))
