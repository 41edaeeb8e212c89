"""What happens around training steps: EMA, monitor, pictures, scores, checkpoints, export."""
