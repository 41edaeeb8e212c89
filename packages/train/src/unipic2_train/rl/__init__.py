"""Online reinforcement learning: sample, score, optimise; Flow-GRPO with its successors' switches, and DiffusionNFT."""
