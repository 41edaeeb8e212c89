import pytest
import torch
from torch import nn

from unipic2_dit.conditioning import Conditioning
from unipic2_unified import NotCapableError, RequestError
from unipic2_unified.encoders import Prompt
from unipic2_unified.prompts import PromptCache

CPU = torch.device("cpu")
ROW_BYTES = 4 * (3 * 2 + 2)


class Recorder(nn.Module):
    """A model that notes where it is moved."""

    def __init__(self, events):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.events = events

    def to(self, device):
        self.events.append(f"to {device}")
        return self


class Widths:
    """Encodes a prompt as its length, and notes what happens."""

    def __init__(self):
        self.events = []
        self.model = Recorder(self.events)

    def modules(self):
        return {"text_encoder": self.model}

    def encode(self, prompts, device):
        self.events.append([prompt.text for prompt in prompts])
        if any(prompt.text == "too long" for prompt in prompts):
            msg = "it is too long"
            raise ValueError(msg)
        lengths = torch.tensor([float(len(prompt.text)) for prompt in prompts]) * self.model.weight
        return Conditioning(lengths[:, None, None].repeat(1, 3, 2), lengths[:, None].repeat(1, 2))


def prompts(*texts):
    return [Prompt(text) for text in texts]


def test_each_distinct_prompt_is_encoded_once():
    encoders = Widths()
    cache = PromptCache(encoders, CPU)
    made = cache(prompts("a", "bb", "a"))
    assert made.pooled_projections[:, 0].tolist() == [1, 2, 1]
    assert cache(prompts("ccc", "bb")).prompt_embeds[:, 0, 0].tolist() == [3, 2]
    assert encoders.events == [["a", "bb"], ["ccc"]]
    assert cache.info() == (2, 3, 3, 3 * ROW_BYTES)
    assert not made.prompt_embeds.requires_grad


def test_instructions_and_pictures_make_other_prompts():
    encoders = Widths()
    cache = PromptCache(encoders, CPU)
    cache([Prompt("a"), Prompt("a", edit=True), Prompt("a", True, None, "x"), Prompt("a", True, None, "y")])
    assert cache.info().misses == 4


def test_the_oldest_go_when_it_is_full():
    encoders = Widths()
    cache = PromptCache(encoders, CPU, max_bytes=2 * ROW_BYTES)
    cache(prompts("a", "bb"))
    cache(prompts("a"))
    assert cache(prompts("ccc", "dddd", "a")).pooled_projections[:, 0].tolist() == [3, 4, 1]
    encoders.events.clear()
    cache(prompts("a", "dddd"))
    assert encoders.events == []
    cache(prompts("bb"))
    assert encoders.events == [["bb"]]
    assert cache.info().rows == 2


def test_many_prompts_are_encoded_in_parts():
    encoders = Widths()
    made = PromptCache(encoders, CPU)(prompts(*("x" * length for length in range(1, 71))))
    assert [len(part) for part in encoders.events] == [32, 32, 6]
    assert made.pooled_projections[:, 0].tolist() == list(range(1, 71))


def test_without_encoders_what_is_there_still_works():
    cache = PromptCache(Widths(), CPU, max_bytes=ROW_BYTES)
    cache(prompts("a"))
    cache.drop()
    assert cache(prompts("a")).pooled_projections[0, 0] == 1
    with pytest.raises(NotCapableError, match=r"'bb' can't be read.*only the 1 prompts in its cache"):
        cache(prompts("a", "bb"))


def test_offloaded_encoders_are_away_but_when_they_work():
    encoders = Widths()
    cache = PromptCache(encoders, torch.device("meta"), offload=True)
    cache(prompts("a"))
    assert encoders.events == ["to meta", ["a"], "to cpu"]
    cache(prompts("a"))
    assert len(encoders.events) == 3
    with pytest.raises(RequestError, match="it is too long"):
        cache(prompts("too long"))
    assert encoders.events[-1] == "to cpu"
    with pytest.raises(RequestError, match="this runs on the CPU"):
        PromptCache(encoders, CPU, offload=True)


def test_what_failed_leaves_nothing_behind():
    cache = PromptCache(Widths(), CPU)
    with pytest.raises(RequestError, match="too long"):
        cache(prompts("a", "too long"))
    assert cache.info().rows == 0
    assert cache(prompts("a")).pooled_projections[0, 0] == 1
