from types import SimpleNamespace

import pytest
import torch

from unipic2_train.callbacks.frozen import FrozenProofs
from unipic2_train.edit_reward.folder import load_edit_reward
from unipic2_train.edit_reward.network import EditRewardNetwork, VlmAdapterConfig, asked
from unipic2_train.edit_reward.system import EditRewardConfig
from unipic2_train.export import trained_values
from unipic2_train.optim import OptimizerConfig, configure
from unipic2_train.training_checkpoint import trainable_parameters
from unipic2_vlm.frozen import NotFrozenError

ADAPTER = VlmAdapterConfig(rank=2, alpha=4)
CHOICES = [{"train": "head"}, {"train": "adapter", "adapter": ADAPTER}, {"train": "all"}]


def step(system, data):
    """Take an optimiser step and return the batch."""
    batch = next(iter(data.train_dataloader()))
    optimizer = configure(system, OptimizerConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant"), 10)
    system.training_loss(batch).loss.backward()
    optimizer["optimizer"].step()
    return batch


@pytest.fixture
def batch(data):
    return next(iter(data.train_dataloader()))


def test_a_new_head_finds_all_edits_average(small_vlm, batch):
    network = EditRewardNetwork(small_vlm.model.model)
    shown = asked(small_vlm.processor, "<prompt>", batch.reference_bytes, batch.target_bytes, batch.prompts)
    assert network(shown).tolist() == [0.0] * 8


def test_a_row_is_scored_as_it_would_be_alone(system, batch):
    network, processor = system().network.eval(), system().processor
    shown = batch.reference_bytes, batch.target_bytes, batch.prompts
    together = network(asked(processor, "<prompt>", *shown))
    alone = [network(asked(processor, "<prompt>", *(part[row : row + 1] for part in shown))) for row in range(8)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_source_result_and_instruction_all_matter(system, batch):
    built = system()
    shown = [batch.reference_bytes, batch.target_bytes, batch.prompts]

    def scores(*changed):
        return built.network(asked(built.processor, "<prompt>", *changed))

    first = scores(*shown)
    for place, other in enumerate((255 - shown[0], 255 - shown[1], ["remove everything"] * 8)):
        assert ((first - scores(*shown[:place], other, *shown[place + 1 :])).abs() > 1e-4).all()


@pytest.mark.parametrize("config", CHOICES, ids=lambda config: config["train"])
def test_what_is_trained_moves_and_nothing_else(system, data, config):
    built = system(**config)
    before = {name: value.detach().clone() for name, value in built.named_parameters()}
    step(built, data)
    moved = {name for name, value in built.named_parameters() if not torch.equal(value, before[name])}
    trained = trainable_parameters(built)
    assert moved <= set(trained)
    assert "network.head.weight" in moved
    assert any(".visual." in name for name in moved) == (config["train"] == "all")
    assert any("lora_B" in name for name in moved) == (config["train"] == "adapter")
    assert all("lora" in name or "head" in name for name in trained) == (config["train"] != "all")


@pytest.mark.parametrize("config", CHOICES, ids=lambda config: config["train"])
def test_an_exported_reward_scores_as_the_trained_one(system, data, tmp_path, config):
    built = system(**config)
    batch = step(built, data)
    folder = tmp_path / "reward"
    built.export(folder, {"run": "test"}, write=True)
    network, processor, record = load_edit_reward(folder, "cpu")
    found = network(asked(processor, record.question, batch.reference_bytes, batch.target_bytes, batch.prompts))
    expected, _ = built.judged(batch)
    torch.testing.assert_close(found, expected.flatten(), rtol=1e-4, atol=1e-5)
    assert (folder / "vlm").is_dir() == (config["train"] != "head")
    assert (record.mean, record.std, record.judge) == (data.facts.mean, data.facts.std, data.facts.judge)


def test_an_adapter_starts_without_effect_and_depends_on_the_seed(system, batch):
    adapted, again, other = (system(train="adapter", adapter=ADAPTER, seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(system().judged(batch)[0], adapted.judged(batch)[0])
    one, two, three = map(trained_values, (adapted, again, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(torch.equal(one[name], three[name]) for name in one if "lora_A" in name)


@pytest.mark.parametrize("config", [{"train": "head"}, {"train": "adapter", "adapter": ADAPTER}])
def test_a_vlm_that_was_to_be_frozen_is_proven_frozen(system, config):
    built, proofs, trainer = system(**config), FrozenProofs(), SimpleNamespace(loggers=[])
    stage = SimpleNamespace(edit_reward=built)
    proofs.on_train_start(trainer, stage)
    for parameter in built.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1.0)
    proofs.on_train_end(trainer, stage)
    next(value for value in built.network.model.parameters() if not value.requires_grad).data.add_(1e-6)
    with pytest.raises(NotFrozenError, match="have changed in training: vlm"):
        proofs.on_train_end(trainer, stage)


def test_checkpointing_changes_no_gradient(system, data, batch):
    gradients = []
    for checkpointing in (False, True):
        built = system(gradient_checkpointing=checkpointing)
        built.training_loss(batch).loss.backward()
        gradients.append({name: value.grad for name, value in built.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"train": "all", "adapter": ADAPTER}, "adapter needs train: adapter, not 'all'"),
        ({"question": "Is it good?"}, "must say with <prompt> where the instruction goes"),
    ],
)
def test_contradictions_are_refused(config, says):
    with pytest.raises(ValueError, match=says):
        EditRewardConfig("vlm", **config)
