"""One process a device that owns a model, and what feeds, watches and restarts it."""
