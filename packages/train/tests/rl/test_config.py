"""What is known to be wrong is refused, with the reason."""

import pytest

from unipic2_train.rl.config import (
    CLIPS,
    AdvantageConfig,
    GRPOConfig,
    KLConfig,
    NFTConfig,
    RLConfig,
    RolloutConfig,
    WindowConfig,
)

NFT = {
    "algorithm": "nft",
    "kl": KLConfig("velocity"),
    "rollout": RolloutConfig(guidance=1, window=WindowConfig("none")),
}


def test_the_defaults_are_the_paper_s_and_pass():
    config = RLConfig()
    config.check(adapter=True)
    rollout = config.rollout
    assert (rollout.steps, rollout.level, rollout.guidance, config.kl.weight) == (10, 0.7, 4.5, 0.04)
    assert config.clip == 1e-4
    RLConfig(**NFT).check(adapter=True)


@pytest.mark.parametrize(("dynamics", "region"), list(CLIPS))
def test_every_published_clip_is_of_an_allowed_combination(dynamics, region):
    RLConfig(rollout=RolloutConfig(dynamics=dynamics), grpo=GRPOConfig(region)).check(adapter=True)
    assert RLConfig(grpo=GRPOConfig(clip=0.1)).clip == 0.1


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (RLConfig(rollout=RolloutConfig(dynamics="cps"), grpo=GRPOConfig("ratio_norm")), "derived for flow_sde"),
        (RLConfig(rollout=RolloutConfig(dynamics="cps"), grpo=GRPOConfig(step_weights="inverse_dt")), "sqrt"),
        (RLConfig(rollout=RolloutConfig(dynamics="cps", level=1.2)), r"\(0, 1\]"),
        (RLConfig(rollout=RolloutConfig(steps=1)), "2 or more"),
        (RLConfig(rollout=RolloutConfig(level=0.0)), "no log-probability"),
        (RLConfig(rollout=RolloutConfig(window=WindowConfig("none"))), "stochastic steps"),
        (RLConfig(rollout=RolloutConfig(window=WindowConfig("random", size=10))), "never trained"),
        (RLConfig(rollout=RolloutConfig(window=WindowConfig("sliding", stop=10))), "never trained"),
        (RLConfig(advantages=AdvantageConfig("gdpo", std="global")), "std group"),
        (RLConfig(updates=0), "updates must be positive"),
        (RLConfig(**NFT | {"kl": KLConfig("mu")}), "kl.kind velocity"),
        (RLConfig(**NFT | {"rollout": RolloutConfig(guidance=1)}), "window.kind none"),
        (RLConfig(**NFT | {"rollout": RolloutConfig(window=WindowConfig("none"))}), "without guidance"),
        (RLConfig(**NFT, nft=NFTConfig(old_decay=1.0)), "never moves"),
    ],
)
def test_wrong_combinations(config, says):
    with pytest.raises(ValueError, match=says):
        config.check(adapter=True)


def test_without_an_adapter_there_is_no_reference():
    with pytest.raises(ValueError, match=r"model\.kontext\.adapter"):
        RLConfig().check(adapter=False)
    RLConfig(kl=KLConfig(weight=0.0)).check(adapter=False)
