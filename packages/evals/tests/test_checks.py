"""Checks of input: what passes, and what the messages say."""

import math

import numpy as np
import pytest

from unipic2_evals import checks


def test_numbers_keep_their_type():
    assert isinstance(checks.as_number(3, "n"), int)
    assert isinstance(checks.as_number(np.int64(3), "n"), int)
    assert checks.as_number(np.float32(0.5), "n") == 0.5


@pytest.mark.parametrize("value", [None, "3", True, math.nan, math.inf, 10**400, [3]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="n: expected a finite number, got"):
        checks.as_number(value, "n")


def test_long_values_are_cut():
    with pytest.raises(ValueError, match=r"t: expected text, got list \[0, 1.*\.\.\.; mend it$") as caught:
        checks.as_text(list(range(1000)), "t", "mend it")
    assert len(str(caught.value)) < 150


def test_missing_field_lists_those_that_are_there():
    with pytest.raises(ValueError, match=r"row 3: no 'c' among its fields \['a', 'b'\]"):
        checks.as_field({"b": 1, "a": 2}, "c", "row 3")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", 3])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="key: expected"):
        checks.as_name(name, "key")
