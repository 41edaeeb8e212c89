"""The objective against a derivation written out here by hand, and its independence of everything but its row."""

from dataclasses import replace

import pytest
import torch

from unipic2_data.randomness import keyed_normal, keyed_uniform
from unipic2_dit.conditioning import Conditioning
from unipic2_train.objectives.flow_matching import FlowMatchingConfig, flow_matching_loss, loss_at_levels

SHIFT, SEED = 3.0, 7


@pytest.fixture
def encode(frozen, batch):
    return lambda kind="t2i", count=8: frozen.encode(batch(kind, count))


def rows(encoded, index):
    """Return some rows of a batch, as if they were a batch of their own."""
    part = slice(index, index + 1)
    return replace(
        encoded,
        keys=encoded.keys[part],
        visits=encoded.visits[part],
        latents=encoded.latents[part],
        references=None if encoded.references is None else encoded.references[part],
        conditioning=Conditioning(*(each[part] for each in encoded.conditioning)),
        weight=encoded.weight[part],
    )


@pytest.mark.parametrize("kind", ["t2i", "edit"])
@pytest.mark.parametrize("weighting", ["logit_normal", "uniform"])
def test_loss_is_the_written_out_formula(transformer, encode, kind, weighting):
    encoded = encode(kind)
    config = FlowMatchingConfig(weighting=weighting, text_dropout=0.5)
    result = flow_matching_loss(transformer, encoded, config, shift=SHIFT, seed=SEED)
    assert (encoded.references is not None) == (kind == "edit")

    expected = []
    for index, (key, visit) in enumerate(zip(encoded.keys, encoded.visits.tolist(), strict=True)):
        uniform = keyed_uniform(SEED, [key], [visit], "sigma").item()
        if weighting == "logit_normal":
            level = torch.special.ndtri(torch.tensor(uniform, dtype=torch.float64)).sigmoid().item()
        else:
            level = uniform
        sigma = SHIFT * level / (1 + (SHIFT - 1) * level)
        assert result.sigma[index].item() == pytest.approx(sigma, abs=2e-6)
        clean = encoded.latents[index]
        noise = keyed_normal(SEED, [key], [visit], "noise", clean.shape)[0]
        dropped = keyed_uniform(SEED, [key], [visit], "text-dropout").item() < 0.5
        text = (
            [each[0] for each in encoded.unconditional] if dropped else [each[index] for each in encoded.conditioning]
        )
        velocity = transformer(
            hidden_states=((1 - sigma) * clean + sigma * noise)[None],
            encoder_hidden_states=text[0][None],
            pooled_projections=text[1][None],
            timestep=torch.tensor([1000.0 * sigma]),
            ref_hidden_states=None if encoded.references is None else encoded.references[index][None],
            return_dict=False,
        )[0][0]
        expected.append(((velocity - (noise - clean)) ** 2).mean())
    torch.testing.assert_close(result.per_row, torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_a_row_alone_is_the_row_in_a_batch(transformer, encode, kind):
    encoded, config = encode(kind), FlowMatchingConfig(text_dropout=0.3)
    together = flow_matching_loss(transformer, encoded, config, shift=SHIFT, seed=SEED)
    for index in (0, 3, 7):
        alone = flow_matching_loss(transformer, rows(encoded, index), config, shift=SHIFT, seed=SEED)
        torch.testing.assert_close(alone.per_row[0], together.per_row[index], rtol=1e-5, atol=1e-6)
        assert torch.equal(alone.sigma[0], together.sigma[index])


def test_seed_visit_and_key_change_the_noise(transformer, encode):
    encoded, config = encode(), FlowMatchingConfig()
    first = flow_matching_loss(transformer, encoded, config, shift=SHIFT, seed=SEED)
    assert torch.equal(first.per_row, flow_matching_loss(transformer, encoded, config, shift=SHIFT, seed=SEED).per_row)
    others = [
        flow_matching_loss(transformer, encoded, config, shift=SHIFT, seed=SEED + 1),
        flow_matching_loss(transformer, replace(encoded, visits=encoded.visits + 1), config, shift=SHIFT, seed=SEED),
        flow_matching_loss(transformer, replace(encoded, keys=encoded.keys[::-1]), config, shift=SHIFT, seed=SEED),
    ]
    assert not any((other.sigma == first.sigma).any() for other in others)


def test_a_quarantined_row_counts_nothing_and_still_divides(transformer, encode):
    encoded = encode()
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    result = flow_matching_loss(
        transformer, replace(encoded, weight=weight), FlowMatchingConfig(), shift=SHIFT, seed=SEED
    )
    torch.testing.assert_close(result.loss.detach(), (result.per_row * weight).sum() / 8)


class Recorder:
    """Stands where the transformer does and keeps what it is given."""

    def __call__(self, *, hidden_states, **given):
        self.given = given
        return (torch.zeros_like(hidden_states),)


@pytest.mark.parametrize(("dropout", "low", "high"), [(0.0, 0, 0), (0.1, 60, 140), (1.0, 1000, 1000)])
def test_share_of_dropped_prompts(encode, dropout, low, high):
    encoded = encode(count=1)
    many = 1000
    wide = replace(
        encoded,
        keys=[f"key-{number}" for number in range(many)],
        visits=torch.zeros(many, dtype=torch.int64),
        latents=encoded.latents.expand(many, -1, -1, -1),
        conditioning=Conditioning(*(each.expand(many, *each.shape[1:]) for each in encoded.conditioning)),
        weight=torch.ones(many),
    )
    seen = Recorder()
    flow_matching_loss(seen, wide, FlowMatchingConfig(text_dropout=dropout), shift=SHIFT, seed=SEED)
    embeds, pooled = seen.given["encoder_hidden_states"], seen.given["pooled_projections"]
    empty = (embeds == encoded.unconditional.prompt_embeds).flatten(1).all(1)
    assert low <= int(empty.sum()) <= high
    assert torch.equal(empty, (pooled == encoded.unconditional.pooled_projections).all(1)), "both or neither"


def test_reference_dropout_zeroes_whole_references(encode):
    encoded, seen = encode("edit"), Recorder()
    config = FlowMatchingConfig(reference_dropout=0.5)
    flow_matching_loss(seen, encoded, config, shift=SHIFT, seed=SEED)
    given = seen.given["ref_hidden_states"]
    dropped = (given == 0).flatten(1).all(1)
    assert 0 < dropped.sum() < len(dropped)
    assert torch.equal(given[~dropped], encoded.references[~dropped])


@pytest.mark.parametrize("name", ["text_dropout", "reference_dropout"])
def test_impossible_dropout(name):
    with pytest.raises(ValueError, match=rf"objective\.{name}"):
        FlowMatchingConfig(**{name: 1.5})


def test_validation_levels_are_fixed(transformer, encode):
    encoded, config = encode("edit"), FlowMatchingConfig(validation_levels=3, text_dropout=1.0)
    first = loss_at_levels(transformer, encoded, config, shift=SHIFT)
    assert first.shape == (8, 3)
    assert not first.requires_grad
    torch.manual_seed(123)
    assert torch.equal(first, loss_at_levels(transformer, encoded, config, shift=SHIFT)), "no global randomness"
    alone = loss_at_levels(transformer, rows(encoded, 5), config, shift=SHIFT)
    torch.testing.assert_close(alone[0], first[5], rtol=1e-5, atol=1e-6)


def test_validation_levels_are_those_of_the_shifted_schedule(encode):
    sigmas = []

    def record(*, hidden_states, timestep, **_):
        sigmas.append(timestep[0].item() / 1000)
        return (torch.zeros_like(hidden_states),)

    loss_at_levels(record, encode(), FlowMatchingConfig(validation_levels=4), shift=3.0)
    assert sigmas == pytest.approx([3 * u / (1 + 2 * u) for u in (0.125, 0.375, 0.625, 0.875)], abs=1e-6)
