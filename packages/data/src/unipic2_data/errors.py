"""The one exception that bad data or a bad request raises; command lines print it without a traceback."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Data on disk, or a request about it, is wrong; the message names the input, what was expected and the mend."""
