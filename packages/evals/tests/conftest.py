"""Settings of hypothesis, and how results are compared with worked cases."""

import pytest
from hypothesis import settings

# The same examples on every machine, and no time limit on a busy one.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")


def _agree(result, expected):
    if isinstance(expected, dict):
        return (
            isinstance(result, dict)
            and result.keys() == expected.keys()
            and all(_agree(result[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(result, list)
            and len(result) == len(expected)
            and all(_agree(*pair) for pair in zip(result, expected, strict=True))
        )
    if isinstance(expected, float):
        return result == pytest.approx(expected, abs=1e-12)
    return type(result) is type(expected) and result == expected


@pytest.fixture
def agree():
    """Compare nested results: floats with a tolerance, everything else exactly and by type."""
    return _agree
