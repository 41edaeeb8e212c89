"""An edit reward: a vision-language model with a regression head, and the scored edits that it learns from."""

__all__ = ["COMMAND", "KIND", "SCORE"]

COMMAND, KIND, SCORE = "label-edits", "edit", "judge"
"""Who makes the data, its kind, and the name of the score in a sample's ``scores``."""
