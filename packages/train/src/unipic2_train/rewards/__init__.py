"""Rewards of reinforcement learning: what the protocol is stands in ``base``."""
