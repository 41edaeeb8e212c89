"""What chains stages and writes whole checkpoints."""
