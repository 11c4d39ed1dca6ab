"""Sizes and times as people write and read them."""

from __future__ import annotations

import pytest

from skyloom.ops.errors import ConfigError
from skyloom.workflows.machine import (
    available_memory,
    count,
    format_bytes,
    format_seconds,
    parse_bytes,
    peak_memory,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("500MB", 5e8), ("2e9", 2e9), ("1.5 gb", 1.5e9), ("100 KiB", 102400), ("7", 7)],
)
def test_sizes(text: str, size: float) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "8 apples", "-3GB", "0", "1.2.3MB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write for example 8GiB|more than nothing"):
        parse_bytes(text)


def test_formats() -> None:
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(12) == "12 B"
    assert format_seconds(0.2) == "1 s"
    assert [count(n, "task") for n in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]
    assert format_seconds(200) == "3 min 20 s"
    assert format_seconds(7260) == "2 h 1 min"


def test_this_machine() -> None:
    assert 1e8 < available_memory() < 1e14
    assert 1e7 < peak_memory() < 1e12
