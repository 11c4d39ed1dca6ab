"""Colours of the pixels as they are stored, out of the four ways headers put it.

A header states the pattern of the picture as its capture program shows it. `XBAYROFF`, `YBAYROFF` say at which
column and row of the pattern the picture begins. `ROWORDER` says whether the first stored row is the top row of
that picture (TOP-DOWN, what nearly all capture programs write, and what is meant where the keyword is absent) or
the bottom row (BOTTOM-UP): then the pattern has to be turned over, which exchanges its rows where the number of
rows is even, and leaves it where it is odd. That is how Siril, which introduced the keyword together with CCDciel,
reads it (free-astro.org, "Orientation of FITS images"; siril.readthedocs.io, FITS).
"""

from __future__ import annotations

import re

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.cards import first_text, number
from skyloom.ops.session.fact import Fact

PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
_KEYWORDS = ("BAYERPAT", "COLORTYP", "CFAPAT", "BAYERPATT")
_X_OFFSETS = ("XBAYROFF", "BAYOFFX", "XBAYOFF", "BAYROFFX")
_Y_OFFSETS = ("YBAYROFF", "BAYOFFY", "YBAYOFF", "BAYROFFY")
_OTHER_ARRAY = re.compile(r"(?=.*G)[RGBCMYW]{4}$|[RGB]{36}$|x-?trans", re.IGNORECASE)


def shifted(pattern: str, rows: int, columns: int) -> str:
    """Pattern seen from a pixel further: `rows` down, `columns` to the right."""
    return "".join(pattern[2 * ((y + rows) % 2) + (x + columns) % 2] for y in (0, 1) for x in (0, 1))


def header_bayer(header: Header, height: int) -> tuple[Fact | None, Fact | None]:
    """Bayer pattern of the stored rows, and what says that the sensor is a colour sensor at all.

    Parameters
    ----------
    header
        Header of the image.
    height
        Rows of the image (pixels).

    Returns
    -------
    pattern : Fact or None
        "RGGB", "BGGR", "GRBG" or "GBRG": colours of the pixels (0, 0), (0, 1), (1, 0), (1, 1) of the stored array.
    colour : Fact or None
        The header's text, also for arrays that are no Bayer pattern (X-Trans, CMYG); None for mono.
    """
    for keyword in _KEYWORDS:
        found = first_text(header, (keyword,))
        if found is None:
            continue
        text = str(found.value).upper().replace(" ", "")
        if text in PATTERNS:
            return Fact(_stored(header, text, height), found.origin), Fact(text, found.origin)
        if _OTHER_ARRAY.match(text):
            return None, found
    return None, None


def _stored(header: Header, pattern: str, height: int) -> str:
    columns, rows = (_offset(header, keywords) for keywords in (_X_OFFSETS, _Y_OFFSETS))
    if str(header.value("ROWORDER", "")).strip().upper() == "BOTTOM-UP" and height % 2 == 0:
        rows += 1
    return shifted(pattern, rows, columns)


def _offset(header: Header, keywords: tuple[str, ...]) -> int:
    for keyword in keywords:
        value = number(header, keyword)
        if value is not None and abs(value) < 1e6:
            return round(value)
    return 0
