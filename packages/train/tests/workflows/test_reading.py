import pytest
import torch

from unipic2_data.shapes.grammar import FACTS, example_readings, vocabulary
from unipic2_train.workflows.reading import UNSEEN, ReadingConfig, teach
from unipic2_train.workflows.text import TextConfig, make_text_encoders

NUM_VALUES = [len(values) for values in FACTS.values()]


def taught(seed=0, *, steps, texts, batch_size=64):
    encoders = make_text_encoders(vocabulary(), TextConfig(max_tokens=12))
    readings = list(example_readings(texts + UNSEEN))
    return encoders, teach(encoders, readings, NUM_VALUES, ReadingConfig(steps, texts, batch_size), seed)


def test_the_seed_alone_decides():
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))
        encoders, _ = taught(seed, steps=2, texts=100)
        states.append([value.clone() for model in encoders.models() for value in model.state_dict().values()])
    assert all(torch.equal(one, two) for one, two in zip(states[0], states[1], strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(states[0], states[2], strict=True))


def test_taught_encoders_are_frozen_and_pool_at_unit_variance():
    encoders, _ = taught(steps=2, texts=100)
    assert not any(value.requires_grad for model in encoders.models() for value in model.parameters())
    texts = [reading.text for reading in example_readings(400, seed=1)]
    ids = encoders.clip_tokenizer(texts, padding="max_length", max_length=12, return_tensors="pt").input_ids
    for clip in encoders.clips:
        assert clip(ids).text_embeds.std().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
def test_encoders_learn_to_read():
    _, before = taught(steps=0, texts=4000)
    _, after = taught(steps=500, texts=4000, batch_size=128)
    assert max(before) < 0.1, "nothing is told by chance"
    assert min(after) > 0.95
