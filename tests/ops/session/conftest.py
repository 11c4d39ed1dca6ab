"""Headers for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from astropy.io import fits

from skyloom.ops.formats.fits_header import Header

Cards = dict[str, Any] | Sequence[tuple[Any, ...]]


@pytest.fixture(scope="session")
def header_of() -> Callable[[Cards], Header]:
    """Header of cards: a mapping, or tuples of keyword, value and comment."""

    def make(cards: Cards) -> Header:
        header = fits.Header()
        for item in cards.items() if isinstance(cards, dict) else cards:
            header[item[0]] = item[1] if len(item) == 2 else (item[1], item[2])
        return Header(header.tostring().encode("ascii"))

    return make
