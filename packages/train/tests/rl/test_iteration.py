"""What has to be right by construction: first ratios, divergences, groups, failures, what is trained."""

import shutil
from dataclasses import replace

import pytest
import torch

from unipic2_data.randomness import keyed_normal
from unipic2_dit import sampling
from unipic2_train.kontext import Kontext, KontextConfig
from unipic2_train.rewards.base import Reward, WeightedReward
from unipic2_train.rewards.brightness import BrightnessReward
from unipic2_train.rl.advantages import Advantages
from unipic2_train.rl.config import (
    CLIPS,
    AdvantageConfig,
    GRPOConfig,
    KLConfig,
    RLConfig,
    RolloutConfig,
    WindowConfig,
)
from unipic2_train.rl.guards import GuardsConfig
from unipic2_train.rl.iteration import Reinforcement
from unipic2_train.rl.layout import Layout
from unipic2_train.rl.merge import merged_values
from unipic2_train.rl.objectives import GRPO, reference_policy
from unipic2_train.rl.old_policy import OldPolicy
from unipic2_train.rl.optimise import optimise
from unipic2_train.rl.rollout import sample
from unipic2_train.system import AdapterConfig, build_transformer
from unipic2_train.training_checkpoint import trainable_parameters

LEVELS = {"flow_sde": 0.7, "cps": 0.8, "constant_eta": 0.3}
NFT = {
    "algorithm": "nft",
    "kl": KLConfig("velocity", 1e-4),
    "rollout": RolloutConfig(steps=3, guidance=1.0, window=WindowConfig("none"), micro_batch=4),
}


class Contrast(Reward):
    """How far pixels lie from their mean: with brightness, a second opinion."""

    def __call__(self, request):
        return request.pictures.double().flatten(1).std(1) / 255


@pytest.fixture
def model_folder(foundation, transformer, tmp_path):
    """A checkpoint folder with weights."""
    folder = shutil.copytree(foundation, tmp_path / "model")
    transformer.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def kontext(model_folder):
    """The model with an adapter to train."""
    torch.manual_seed(0)
    return Kontext(KontextConfig(str(model_folder), adapter=AdapterConfig(rank=2, alpha=4)), torch.device("cpu"))


@pytest.fixture
def iterate(kontext, batch):
    """Return a function that runs iterations and returns their metrics."""

    def run(config, kind="t2i", iterations=1, rewards=None, learning_rate=1e-2, **guards):
        layout = Layout(8, 4)
        rewards = rewards or {"brightness": WeightedReward(BrightnessReward())}
        config.check(adapter=True)
        layout.check(config)
        reinforcement = Reinforcement(kontext, config, rewards, GuardsConfig(**guards))
        trained = [parameter for parameter in kontext.transformer.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, learning_rate)
        rows = batch(kind, 2)
        metrics = []
        for iteration in range(iterations):
            rows.visits += iteration
            metrics.append(reinforcement.step(rows, layout, optimizer, iteration))
        return metrics, reinforcement

    return run


def grpo(**changes):
    """Return a small GRPO configuration; ``changes`` are of the rollout or of the whole."""
    rollout = {"steps": 3, "guidance": 1.0, "micro_batch": 4}
    rollout |= {name: changes.pop(name) for name in list(changes) if name in RolloutConfig.__dataclass_fields__}
    return RLConfig(rollout=RolloutConfig(**rollout), **changes)


class Failing(Reward):
    """Scores brightness, but for the first so many pictures."""

    def __init__(self, failures):
        self.failures = failures

    def __call__(self, request):
        scores = BrightnessReward()(request)
        scores[: self.failures] = float("nan")
        return scores


@pytest.mark.parametrize("kind", ["t2i", "edit"])
@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("dynamics", list(LEVELS))
def test_ratios_start_at_one(iterate, kind, guidance, dynamics):
    config = grpo(dynamics=dynamics, level=LEVELS[dynamics], guidance=guidance, updates=2)
    (first, second), _ = iterate(config, kind, iterations=2)
    for metrics in (first, second):  # also where the adapter has begun to do something
        assert metrics["rl/first_update_abs_log_ratio"] < 1e-6
        assert metrics["rl/optimiser_steps"] == 2
    assert second["rl/abs_log_ratio"] > 0, "the second update has moved on"


@pytest.mark.parametrize(("dynamics", "region"), list(CLIPS))
def test_every_trust_region_trains(iterate, dynamics, region):
    config = grpo(dynamics=dynamics, level=LEVELS[dynamics], grpo=GRPOConfig(region, clip=0.1), updates=2)
    (metrics,), _ = iterate(config)
    assert metrics["rl/first_update_abs_log_ratio"] < 1e-6
    assert metrics["rl/gradient_norm"] > 0


def test_the_ratio_is_known_even_if_nothing_can_be_learnt(iterate):
    class Indifferent(Reward):
        def __call__(self, request):
            return torch.ones(len(request))

    (metrics,), reinforcement = iterate(grpo(), rewards={"one": WeightedReward(Indifferent())})
    assert metrics["rl/first_update_abs_log_ratio"] < 1e-6
    assert (metrics["rl/dropped_groups_share"], metrics["rl/optimiser_steps"]) == (1, 0)
    trained = trainable_parameters(reinforcement.kontext.transformer)
    assert not any(value.any() for name, value in trained.items() if "lora_B" in name), "no step was taken"


@pytest.mark.parametrize("kind", ["mu", "mu_dt", "velocity"])
def test_the_reference_is_the_adapter_switched_off(iterate, kind):
    metrics, _ = iterate(grpo(kl=KLConfig(kind, 0.1)), iterations=2)
    assert metrics[0]["rl/kl"] == 0, "an adapter starts without effect"
    assert metrics[1]["rl/kl"] > 0


def test_the_pull_to_the_reference_has_a_gradient(kontext, batch):
    """Without any advantage, the divergence alone moves the weights."""
    config, layout, rows = grpo(kl=KLConfig("mu", 1.0)), Layout(4, 2), batch("edit", 2)
    with torch.no_grad():
        for name, value in trainable_parameters(kontext.transformer).items():
            value.add_(0.1 if "lora_B" in name else 0.0)
    rollout = sample(kontext.transformer, kontext.frozen, rows, layout, config, 0)
    objective = GRPO(kontext.transformer, config, rollout.window, rollout.state.sigmas[0])
    loss, terms = objective(rollout, torch.zeros(4), 1)
    loss.sum().backward()
    assert terms["kl"].min() > 0
    assert max(value.grad.abs().max() for value in trainable_parameters(kontext.transformer).values()) > 1e-6
    frozen = [value for name, value in kontext.transformer.named_parameters() if "lora_" not in name]
    assert all(value.grad is None for value in frozen)


@pytest.mark.parametrize(
    "window", [WindowConfig("all"), WindowConfig("random", size=2), WindowConfig("sliding", size=1)]
)
def test_what_is_kept_of_the_drawn_steps(kontext, batch, window):
    config, layout = grpo(steps=4, window=window), Layout(8, 4)
    rollout = sample(kontext.transformer, kontext.frozen, batch("edit", 2), layout, config, 0)
    drawn = len(rollout.window)
    assert drawn == (3 if window.kind == "all" else window.size)
    assert 3 not in rollout.window, "the last step is the ODE's"
    assert (rollout.path.shape, rollout.log_probs.shape) == ((drawn + 1, 8, 4, 8, 8), (drawn, 8))
    assert rollout.path.dtype == rollout.log_probs.dtype == torch.float32
    # What follows the window is the ODE from where it ended.
    state = replace(rollout.state, latents=rollout.path[-1], index=torch.full((8,), rollout.window.stop))
    torch.testing.assert_close(sampling.denoise(kontext.transformer, state), rollout.latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stochastic", [False, True])
def test_steps_outside_the_window_are_those_of_the_model_s_own_sampler(kontext, batch, stochastic):
    """One that adds noise gives pictures of a group their own noise on the way, and is followed step by step."""
    kontext.frozen.scheduler.register_to_config(stochastic_sampling=stochastic)
    config, rows, layout = RLConfig(**NFT), batch("edit", 2), Layout(4, 2)
    rollout = sample(kontext.transformer, kontext.frozen, rows, layout, config, 0)
    state, keys = rollout.state, layout.image_keys(rows)
    with torch.no_grad():
        for step in range(config.rollout.steps):
            velocity = sampling.velocity(kontext.transformer, state)
            moved = sampling.advance(state, velocity)
            if stochastic and step < config.rollout.steps - 1:
                noise = keyed_normal(config.seed, keys, [0] * 4, f"rollout-step-{step}", state.latents.shape[1:])
                after = state.next_sigma.view(-1, 1, 1, 1)
                clean = state.latents - state.sigma.view(-1, 1, 1, 1) * velocity
                moved = replace(moved, latents=(1 - after) * clean + after * noise)
            state = moved
    torch.testing.assert_close(rollout.latents, state.latents, rtol=0, atol=1e-5)


def test_an_image_depends_neither_on_its_process_nor_on_its_neighbours(kontext, batch):
    rows = batch("edit", 2)
    whole = sample(kontext.transformer, kontext.frozen, rows, Layout(8, 4), grpo(micro_batch=8), 0)
    parts = [
        sample(kontext.transformer, kontext.frozen, rows, Layout(8, 4, 4, rank), grpo(micro_batch=1), 0).latents
        for rank in range(4)
    ]
    torch.testing.assert_close(torch.cat(parts), whole.latents, rtol=0, atol=1e-5)
    assert not torch.allclose(whole.latents[0], whole.latents[1]), "images of a group differ"


def test_the_loss_is_of_the_target_alone(kontext, batch):
    """A reference of another size changes the picture, not the shape of what is compared."""
    config, layout = grpo(), Layout(4, 2)
    rollout = sample(kontext.transformer, kontext.frozen, batch("edit", 2), layout, config, 0)
    state = replace(rollout.state, references=rollout.state.references[:, :, :4, :6])
    objective = GRPO(kontext.transformer, config, rollout.window, rollout.state.sigmas[0])
    loss, _ = objective(replace(rollout, state=state), torch.ones(4), 0)
    assert loss.shape == (4,)
    assert sampling.velocity(kontext.transformer, replace(rollout, state=state).at(0)).shape == rollout.latents.shape


def test_failed_scores_are_masked_and_many_stop_the_run(iterate):
    few = grpo(advantages=AdvantageConfig(max_failures=0.2))
    (metrics,), _ = iterate(few, rewards={"remote": WeightedReward(Failing(1))})
    assert metrics["rl/failed_share"] == 1 / 8
    assert metrics["rl/reward_t2i/remote"] > 0
    with pytest.raises(ValueError, match=r"25% of 8 images have a failed score \(remote 2\), more than .* 20%"):
        iterate(few, rewards={"remote": WeightedReward(Failing(2))})


def test_rewards_are_logged_apart_and_only_those_of_the_kind_are_asked(iterate):
    class EditsOnly(Contrast):
        kinds = ("edit",)

    rewards = {
        "brightness": WeightedReward(BrightnessReward(), 2.0),
        "contrast": WeightedReward(Contrast()),
        "edits": WeightedReward(EditsOnly()),
    }
    (metrics,), _ = iterate(grpo(advantages=AdvantageConfig("gdpo")), rewards=rewards)
    expected = 2 * metrics["rl/reward_t2i/brightness"] + metrics["rl/reward_t2i/contrast"]
    assert metrics["rl/reward_t2i"] == pytest.approx(expected)
    assert "rl/reward_t2i/edits" not in metrics
    with pytest.raises(ValueError, match=r"no reward scores t2i pictures: model\.rewards has edits"):
        iterate(grpo(), rewards={"edits": rewards["edits"]})


def test_edits_are_watched(iterate):
    (metrics,), _ = iterate(grpo(), "edit", held_out=Contrast())
    watched = {name for name in metrics if name.startswith("guard/")}
    names = ("diversity", "velocity_drift", "no_op_rate", "over_edit_rate", "held_out", "alarm")
    assert watched == {f"guard/{name}_edit" for name in names}
    assert metrics["guard/diversity_edit"] > 0
    assert metrics["guard/velocity_drift_edit"] == 0


def test_a_supervised_loss_joins_in(iterate):
    metrics, _ = iterate(grpo(sft_weight=0.5), iterations=2)
    assert all(values["rl/sft_loss"] > 0 for values in metrics)
    assert metrics[0]["rl/sft_loss"] != metrics[1]["rl/sft_loss"]


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_diffusion_nft_trains_over_the_same_rollouts(iterate, kind):
    metrics, reinforcement = iterate(RLConfig(**NFT), kind, iterations=3)
    assert metrics[0]["rl/prediction_deviation"] < 1e-9, "the old policy starts as the model"
    assert metrics[1]["rl/prediction_deviation"] > 0
    assert all(values["rl/gradient_norm"] > 0 for values in metrics)
    assert "rl/first_update_abs_log_ratio" not in metrics[0], "it has no ratio"
    trained = trainable_parameters(reinforcement.kontext.transformer)
    assert any(not torch.equal(reinforcement.old.values[name], value) for name, value in trained.items())


def test_the_old_policy_follows_and_comes_back(kontext):
    old = OldPolicy(kontext.transformer, 0.75)
    start = {name: value.detach().clone() for name, value in trainable_parameters(kontext.transformer).items()}
    with torch.no_grad():
        for value in trainable_parameters(kontext.transformer).values():
            value.add_(1.0)
    with old.applied():
        assert all(torch.equal(value, start[n]) for n, value in trainable_parameters(kontext.transformer).items())
    for name, value in trainable_parameters(kontext.transformer).items():
        torch.testing.assert_close(value.detach(), start[name] + 1)
    old.follow()
    again = OldPolicy(kontext.transformer, 0.75)
    again.load_state_dict(old.state_dict())
    for name, value in again.values.items():
        torch.testing.assert_close(value, start[name] + 0.25)


def test_a_merged_model_is_the_model_with_its_adapter(kontext, batch, model_folder):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in trainable_parameters(kontext.transformer).values():
            value.copy_(torch.randn(value.shape, generator=generator))
    rollout = sample(kontext.transformer, kontext.frozen, batch("edit", 2), Layout(4, 2), grpo(), 0)
    plain = build_transformer(model_folder, "checkpoint")
    plain.load_state_dict(merged_values(kontext.transformer, 4) | {"pos_embed.pos_embed": plain.pos_embed.pos_embed})
    state = rollout.at(0)
    adapted, merged = (sampling.velocity(model, state) for model in (kontext.transformer, plain))
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-5)
    with reference_policy(kontext.transformer):
        assert (sampling.velocity(kontext.transformer, state) - adapted).abs().max() > 0.1


def test_dropped_images_have_no_say(kontext, batch):
    """The gradient of an update is that of the kept images, whatever else was sampled."""
    config, layout, rows = grpo(kl=KLConfig(weight=0.0), max_gradient_norm=1e9), Layout(8, 4), batch("t2i", 2)
    rollout = sample(kontext.transformer, kontext.frozen, rows, layout, config, 0)
    objective = GRPO(kontext.transformer, config, rollout.window, rollout.state.sigmas[0])
    values = torch.tensor([1.0, -1.0, 2.0, -2.0, 9.0, 9.0, 9.0, 9.0]).double()
    kept = torch.tensor([True] * 4 + [False] * 4)
    trained = list(trainable_parameters(kontext.transformer).values())
    found = {}
    for name, chosen in (("dropped", rollout), ("absent", rollout.take(torch.arange(4)))):
        count = len(chosen)
        optimizer = Keep(trained)
        optimise(
            kontext.transformer,
            optimizer,
            objective,
            chosen,
            Advantages(values[:count], kept[:count]),
            torch.zeros(count, dtype=torch.int64),
            Layout(count, 4),
            config,
        )
        found[name] = optimizer.kept
    for one, other in zip(found["dropped"], found["absent"], strict=True):
        torch.testing.assert_close(one, other)
    assert max(gradient.abs().max() for gradient in found["absent"]) > 0


class Keep(torch.optim.SGD):
    """Keeps the gradients instead of using them."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.0)
        self.kept = []

    def step(self, closure=None):
        self.kept = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
