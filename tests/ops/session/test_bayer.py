"""Colours of the stored pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.bayer import PATTERNS, header_bayer, shifted
from skyloom.ops.session.fact import Fact

HeaderOf = Callable[[Any], Header]


def stored_by_hand(pattern: str, x: int, y: int, order: str, height: int) -> str:
    """Lay the pattern over a picture, store its rows, read the first four pixels."""
    cell = np.array(list(pattern)).reshape(2, 2)
    rows, columns = np.arange(height) + y, np.arange(8) + x
    picture = cell[np.ix_(rows % 2, columns % 2)]
    array = picture[::-1] if order == "BOTTOM-UP" else picture
    return "".join(array[:2, :2].ravel())


@given(
    st.sampled_from(PATTERNS),
    st.integers(-3, 3),
    st.integers(-3, 3),
    st.sampled_from(["TOP-DOWN", "BOTTOM-UP"]),
    st.integers(2, 9),
)
def test_offsets_and_order_of_rows(
    header_of: HeaderOf, pattern: str, x: int, y: int, order: str, height: int
) -> None:
    header = header_of({"BAYERPAT": pattern, "XBAYROFF": x, "YBAYROFF": y, "ROWORDER": order})
    found, colour = header_bayer(header, height)
    assert found == Fact(stored_by_hand(pattern, x, y, order, height), "header BAYERPAT")
    assert colour == Fact(pattern, "header BAYERPAT")


def test_the_rows_are_top_down_unless_the_header_says_otherwise(header_of: HeaderOf) -> None:
    assert header_bayer(header_of({"BAYERPAT": "RGGB"}), 10)[0] == Fact("RGGB", "header BAYERPAT")
    assert header_bayer(header_of({"BAYERPAT": "RGGB", "ROWORDER": "BOTTOM-UP"}), 10)[0] == Fact(
        "GBRG", "header BAYERPAT"
    )


@pytest.mark.parametrize(
    ("cards", "pattern", "colour"),
    [
        ({"BAYERPAT": "rggb    "}, "RGGB", True),
        ({"COLORTYP": "GBRG"}, "GBRG", True),
        ({"COLORTYP": "GRBG", "BAYOFFX": 1, "BAYOFFY": 0}, "RGGB", True),
        ({"COLORTYP": "RAW16", "BAYERPAT": "BGGR"}, "BGGR", True),
        ({"COLORTYP": "RGB"}, None, False),
        ({"BAYERPAT": "NONE"}, None, False),
        ({"BAYERPAT": "CMYG"}, None, True),
        ({"BAYERPAT": "GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG"}, None, True),
        ({}, None, False),
    ],
)
def test_dialects(header_of: HeaderOf, cards: dict[str, Any], pattern: str | None, colour: bool) -> None:
    found, said = header_bayer(header_of(cards), 100)
    assert (found.value if found is not None else None) == pattern
    assert (said is not None) == colour


def test_shifting_twice_is_not_shifting() -> None:
    for pattern in PATTERNS:
        assert {shifted(pattern, y, x) for y in (0, 1) for x in (0, 1)} == set(PATTERNS)
        assert shifted(pattern, 2, -2) == pattern
        assert shifted(shifted(pattern, 1, 0), 0, 1) == pattern[::-1]


@pytest.mark.parametrize(("folder", "pattern"), [("seestar_m94_s1", "GRBG"), ("als_samples", "RGGB")])
def test_the_sky_says_the_same(shared_data: Callable[[str], Path], folder: str, pattern: str) -> None:
    """The two greens see the same sky, which no other two pixels do."""
    for path in sorted(shared_data(folder).iterdir())[:3]:
        (file,) = examine(path)
        found, _ = header_bayer(file.header, file.source.shape[0])
        assert found is not None
        assert found.value == pattern
        pixels = fits.getdata(path).astype(np.float64)
        level = {}
        for k in range(4):
            values = np.sort(pixels[k // 2 :: 2, k % 2 :: 2], axis=None)
            level[k] = float(values[: int(0.99 * values.size)].mean())
        greens = [k for k in range(4) if pattern[k] == "G"]
        others = [k for k in range(4) if pattern[k] != "G"]
        assert abs(level[greens[0]] - level[greens[1]]) < 0.01 * level[greens[0]]
        assert abs(level[others[0]] - level[others[1]]) > 0.03 * level[greens[0]]
