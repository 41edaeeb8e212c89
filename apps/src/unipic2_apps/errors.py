"""What a person can do wrong. Every message names what was given, what was expected and the mend."""

from __future__ import annotations

from unipic2_dit.command_line import UsageError

__all__ = ["UsageError", "user_errors"]


def user_errors() -> tuple[type[Exception], ...]:
    """Return the errors whose message is all that a person needs; anything else is a bug and keeps its traceback."""
    from unipic2_dit.checkpoint import CheckpointError
    from unipic2_dit.resolution import ImpossibleSizeError
    from unipic2_unified import RequestError

    return UsageError, RequestError, CheckpointError, ImpossibleSizeError
