"""The shapes world: scenes, prompts, edits, rendering and detectors."""
