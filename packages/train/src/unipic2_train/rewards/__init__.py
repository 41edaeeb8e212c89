"""Rewards of reinforcement learning: what the protocol is stands in ``base``."""

__all__ = ["SHORT_NAMES"]

SHORT_NAMES = {
    name: f"unipic2_train.rewards.{path}"
    for name, path in {
        "aesthetic": "aesthetic.AestheticReward",
        "brightness": "brightness.BrightnessReward",
        "clip": "clip.ClipReward",
        "edit-reward": "edit_reward.EditReward",
        "geneval": "geneval.GenEvalReward",
        "ocr": "ocr.OcrReward",
        "pickscore": "pickscore.PickScoreReward",
        "preservation": "preservation.PreservationReward",
        "remote": "remote.RemoteReward",
        "shapes": "shapes.ShapesReward",
        "vlm-judge": "vlm.VLMJudge",
        "vlm-judge-edit": "vlm_edit.VLMEditJudge",
        "vlm-judge-pairwise": "vlm_pairwise.VLMPairwise",
    }.items()
}
"""What a reward is called, and its class path; recipes name the class path."""
