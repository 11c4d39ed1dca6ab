"""The canvas: a WCS, a shape and a tile size in one immutable value object."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning, Wcsprm
from numpy.typing import NDArray

from skyloom.ops.errors import DataError

RELATIVE = "RELATIVE"
"""Name of a WCS (WCSNAME) that says where frames lie against each other, and nothing of the sky."""
POINTED = "POINTING"
"""Name of one whose place and rotation are what a mount said, checked by nothing."""
WCS_LOCK = threading.RLock()
"""Held while a WCS works: wcslib's structures are not safe under threads, nor are Python's warning filters."""

_DISTORTED = re.compile(r"SIP|TPV|TPD|TNX|ZPX|^(A_|B_|AP_|BP_|PV|CPDIS|D2IM|AXISCORR|DP\d|DQ\d)", re.MULTILINE)


def parse_wcs(header: str) -> WCS:
    """Celestial WCS of a header text (cached per process; treat the result as read-only).

    Parameters
    ----------
    header
        FITS header text, as `Grid.header` or the `wcs` column of a session holds it.

    Returns
    -------
    astropy.wcs.WCS
        Two-dimensional, x first.
    """
    with WCS_LOCK:
        return _parse_wcs(header)


@lru_cache(maxsize=4096)
def _parse_wcs(header: str) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        if not _DISTORTED.search(header):
            wcs = bare_wcs([line.ljust(80) for line in header.split("\n")])
            if wcs is not None:
                return wcs
        cards = fits.Header.fromstring(header, sep="\n")
        return WCS(cards, relax=True, naxis=2)


def bare_wcs(cards: Sequence[str]) -> WCS | None:
    """WCS of header cards without distortion; None where they need `astropy.wcs.WCS` to read them.

    wcslib alone takes a twentieth of the time of astropy, which writes and reads the header several times in
    search of distortions: with thousands of frames that was most of what planning took.

    Parameters
    ----------
    cards
        80 characters each.
    """
    if any(len(card) != 80 for card in cards):
        return None
    wcs = WCS(naxis=2)
    try:
        wcs.wcs = Wcsprm(header="".join(cards).encode("ascii"), relax=True)
        wcs.wcs.set()
        wcs.fix()
    # It refuses a contradictory header in a dozen classes; astropy repairs some of them.
    except Exception:
        return None
    return wcs if wcs.wcs.naxis == 2 else None


def wcs_header(wcs: WCS) -> str:
    """Return the text `parse_wcs` reads back: full precision, distortions included."""
    header = wcs.to_header(relax=True)
    return str(header.tostring(sep="\n", endcard=False, padding=False))


@dataclass(frozen=True)
class Grid:
    """A pixel grid on the sky, cut into square tiles."""

    header: str
    """FITS header text of the celestial WCS (`wcs_header`)."""
    shape: tuple[int, int]
    """Rows, columns (pixels)."""
    tile: int
    """Side of a tile (pixels); the last row and column of tiles may be smaller."""

    @property
    def wcs(self) -> WCS:
        """The parsed WCS, shared by everybody in this process."""
        return parse_wcs(self.header)

    @property
    def tiles(self) -> tuple[int, int]:
        """Number of tiles in y and x."""
        return (-(-self.shape[0] // self.tile), -(-self.shape[1] // self.tile))

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tile sizes along y and x, as dask writes chunks."""

        def sizes(length: int) -> tuple[int, ...]:
            full, rest = divmod(length, self.tile)
            return (self.tile,) * full + ((rest,) if rest else ())

        return sizes(self.shape[0]), sizes(self.shape[1])

    @property
    def pixel_scale(self) -> float:
        """Side of a pixel at the reference point (arcsec)."""
        return float(np.sqrt(abs(np.linalg.det(self.wcs.pixel_scale_matrix))) * 3600.0)

    def window(self, ty: int, tx: int) -> tuple[slice, slice]:
        """Rows and columns of tile (ty, tx)."""
        return (
            slice(ty * self.tile, min((ty + 1) * self.tile, self.shape[0])),
            slice(tx * self.tile, min((tx + 1) * self.tile, self.shape[1])),
        )

    def windows(self) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
        """All tiles in row order: ((ty, tx), (rows, columns))."""
        for ty in range(self.tiles[0]):
            for tx in range(self.tiles[1]):
                yield (ty, tx), self.window(ty, tx)

    @property
    def lattice(self) -> str:
        """Header text of the pixels wherever the canvas begins: that of all canvases of the same pixels.

        With whole numbers for the reference pixel, positions from it are exact whatever the canvas.
        """
        return "\n".join(line for line in self.header.split("\n") if not line.startswith("CRPIX"))

    def place(self, rows: slice, columns: slice) -> tuple[float, float, int, int]:
        """Where a window lies on the lattice: y, x of its corner from the reference pixel, rows, columns."""
        x, y = self.wcs.wcs.crpix
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return (rows.start - float(y), columns.start - float(x), height, width)

    def retile(self, tile: int) -> Grid:
        """Return the same pixels cut into tiles of another size."""
        return Grid(self.header, self.shape, tile)

    @property
    def on_sky(self) -> bool:
        """Whether the WCS says where on the sky the canvas is, and not only how its frames lie together."""
        return str(self.wcs.wcs.name) not in (RELATIVE, POINTED)

    def named(self, name: str) -> Grid:
        """The same grid with a name for its WCS (WCSNAME)."""
        wcs = self.wcs.deepcopy()
        wcs.wcs.name = name
        return replace(self, header=wcs_header(wcs))

    def to_attrs(self) -> dict[str, Any]:
        """Return what `from_attrs` needs, as plain values an attribute can hold."""
        return {"grid_wcs": self.header, "grid_shape": list(self.shape), "grid_tile": self.tile}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Grid:
        """Rebuild the grid of a stored Dataset.

        Raises
        ------
        DataError
            If the attributes hold no grid.
        """
        try:
            rows, columns = attrs["grid_shape"]
            return cls(str(attrs["grid_wcs"]), (int(rows), int(columns)), int(attrs["grid_tile"]))
        except KeyError as missing:
            raise DataError(f"this Dataset has no canvas (attribute {missing} is missing)") from None


def sky_to_pixel(
    wcs: WCS, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Zero-based pixel positions of sky positions (degrees); NaN where the projection has none.

    The inverse of a distortion is iterated to 1e-7 pixel.
    """
    with WCS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if wcs.has_distortion:
            x, y = wcs.all_world2pix(ra, dec, 0, tolerance=1e-7, maxiter=60, quiet=True)
        else:
            x, y = wcs.wcs_world2pix(ra, dec, 0)
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)


def pixel_to_sky(
    wcs: WCS, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sky positions (degrees) of zero-based pixel positions."""
    with WCS_LOCK:
        ra, dec = wcs.all_pix2world(x, y, 0)
    return np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
