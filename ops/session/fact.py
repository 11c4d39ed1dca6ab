"""What is known of a frame, one thing at a time, with where it is from."""

from __future__ import annotations

import math
from typing import NamedTuple

DEFAULT = "default"
"""Origin of what nobody said."""


class Fact(NamedTuple):
    """A value and its origin: "header KEYWORD", "file name", "folder name", "user 'PATTERN'" or "default"."""

    value: str | float | bool
    origin: str


def quantity(fact: Fact) -> float:
    """Return a fact as a number; NaN where it is none."""
    value = fact.value
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


UNKNOWN_NUMBER = Fact(math.nan, DEFAULT)
UNKNOWN_TEXT = Fact("", DEFAULT)
