"""Benchmark scoring rules for image generation and editing, as pure functions.

Each benchmark is one module: ``geneval`` holds GenEval's rules (which also score the shapes world, since its prompts
use the same metadata). ``report`` turns verdicts into intervals and tables. ``protocols`` says what a detector is and
finds the installed ones. Nothing here imports torch or another package of this project.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
