"""Tables a FITS file's WCS takes its distortion from: offsets of pixels in extensions of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.wcs import WCS

_KEYWORD = re.compile(r"(CPDIS|CPERR|D2IMDIS|D2IMERR)[12]$|(DP|D2IM)[12](\.|$)|AXISCORR$")
_REFERS = ("CPDIS1", "CPDIS2", "D2IMDIS1", "D2IMDIS2", "AXISCORR")


def refers_to_tables(keywords: Iterable[str]) -> bool:
    """Say whether a header with these keywords has a WCS with lookup distortions, as HST writes them."""
    return not set(_REFERS).isdisjoint(keywords)


def lookup_tables(path: str, unit: int) -> WCS:
    """Tables a header refers to, attached to a WCS that has nothing else.

    Parameters
    ----------
    path
        FITS file, compressed or not.
    unit
        Which header: 0 is that of the primary image.

    Returns
    -------
    astropy.wcs.WCS
        Its `cpdis1`, `cpdis2`, `det2im1` and `det2im2` are those of the header.

    Raises
    ------
    Exception
        Of any kind astropy has for files and headers that contradict themselves, such as a missing extension.

    Notes
    -----
    Distortion paper (Calabretta et al., draft of WCS paper IV) and the older form of a correction by column or row
    (AXISCORR); the first table of a frame whose file is compressed takes decompressing all of it.
    """
    # Half a second to import, for the few frames that have tables.
    from astropy.io import fits
    from astropy.wcs import WCS

    from skyloom.ops.formats.fetched import on_disk

    with on_disk(path) as file, fits.open(file) as units:
        cards = fits.Header([card for card in units[unit].header.cards if _KEYWORD.match(card.keyword)])
        for axis in (1, 2):
            for kind in ("CPDIS", "D2IMDIS"):
                found = str(cards.get(f"{kind}{axis}", "LOOKUP")).strip()
                if found.upper() != "LOOKUP":
                    raise ValueError(f"{kind}{axis} = {found} is none that is known")
        wcs = WCS(cards, fobj=units, naxis=2)
    tables = [t for t in (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2) if t is not None]
    if not tables or any(table.data.size == 0 for table in tables):
        raise ValueError("the file has no such table")
    return wcs
