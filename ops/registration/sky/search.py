"""The search for a field on the sky: near where it should be first, then everywhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.registration.sky.candidates import FEWEST, MOST, field_patterns, find_candidates
from skyloom.ops.registration.sky.catalogue import BrightStars, bright_stars
from skyloom.ops.registration.sky.field import Field
from skyloom.ops.registration.sky.index import LEVELS, Level, build_level, level_rows
from skyloom.ops.registration.sky.verify import LEAST, Solution, verify

Floats = NDArray[np.float64]

SCALES = (np.radians(0.2 / 3600.0), np.radians(600.0 / 3600.0))
"""Radians a pixel, where nothing is known of it."""
SLACK = 1.1
"""How far off a scale by focal length and pixel size may be."""
UNTOLD = 4.5
"""The same, of one by a header that does not know of a binning or a focal reducer."""
POINTING = np.radians(4.0)
"""How far off a mount's pointing may be, besides the field's own size."""
NEAR_NEIGHBOURS, SKY_NEIGHBOURS = 6, 4
"""Neighbours a star makes patterns with: where the place is known roughly there is time for more."""
WHOLE = 70_000
"""Stars of a level whose patterns are made for the whole sky at once."""
PATCH = np.radians(39.0)
"""Radius of the patches otherwise: circles about the corners of an icosahedron cover the sky from 37.4° on."""
_GOLDEN = 0.5 * (1.0 + np.sqrt(5.0))
_PATCHES = np.array(
    [
        np.roll([0.0, a, b * _GOLDEN], k) / np.hypot(1.0, _GOLDEN)
        for k in range(3)
        for a in (-1, 1)
        for b in (-1, 1)
    ]
)


class Sky:
    """A catalogue and the patterns of its levels; those of few stars are kept."""

    def __init__(self, stars: BrightStars) -> None:
        self.stars = stars
        self._rows: dict[int, NDArray[np.intp]] = {}
        self._levels: dict[int, Level] = {}

    def density(self, level: int) -> float:
        """Stars a steradian."""
        return len(self.stars) / (4.0 * np.pi) / 2.0**level

    def rows(self, level: int) -> NDArray[np.intp]:
        """Stars of a level."""
        if level not in self._rows:
            self._rows[level] = level_rows(self.stars, level)
        return self._rows[level]

    def near(self, level: int, centre: Floats, radius: float, *, neighbours: int = NEAR_NEIGHBOURS) -> Level:
        """Patterns of a level within an angle (radians) of a direction."""
        rows = np.intersect1d(self.rows(level), self.stars.around(centre, radius), assume_unique=True)
        return build_level(self.stars, rows, level, neighbours=neighbours)

    def everywhere(self, level: int) -> Iterator[Level]:
        """Patterns of a level in the whole sky; of many stars patch by patch, so that memory stays small."""
        if len(self.rows(level)) > WHOLE:
            for centre in _PATCHES:
                yield self.near(level, centre, PATCH, neighbours=SKY_NEIGHBOURS)
            return
        if level not in self._levels:
            self._levels[level] = build_level(self.stars, self.rows(level), level, neighbours=SKY_NEIGHBOURS)
        yield self._levels[level]


@functools.lru_cache(maxsize=1)
def sky_of(path: Path) -> Sky:
    """Catalogue of a file and its patterns, kept for the life of the process."""
    return Sky(bright_stars(path))


def forget_sky() -> None:
    """Let the catalogue go: what other nodes are granted of memory does not count with it."""
    sky_of.cache_clear()
    bright_stars.cache_clear()


def solve_field(
    field: Field,
    sky: Sky,
    *,
    scale: float = float("nan"),
    pointing: Floats | None = None,
    year: float = float("nan"),
    everywhere: bool = True,
) -> Solution | None:
    """Find a field on the sky.

    Parameters
    ----------
    field
        Stars of an island.
    sky
        Catalogue.
    scale
        Radians a pixel by focal length and pixel size; NaN = unknown.
    pointing
        (3,) direction in which the field's middle should be.
    year
        Of the observation; NaN = that of the catalogue.
    everywhere
        Go on, where the hints do not lead there, with the whole sky and other scales.

    Returns
    -------
    Solution or None
        None where no place is beyond chance.
    """
    if len(field.vectors) < LEAST:
        return None
    patterns = field_patterns(field)
    known = bool(np.isfinite(scale))
    narrow = (scale / SLACK, scale * SLACK) if known else SCALES
    attempts: list[tuple[tuple[float, float], Floats | None]] = []
    if pointing is not None:
        attempts.append((narrow, pointing))
    attempts.append((narrow, None))
    if known:
        # A binning or a focal reducer nobody told of.
        attempts.append(((scale / UNTOLD, scale * UNTOLD), None))
    for scales, centre in attempts[: None if everywhere else 1]:
        found = _search(field, sky, patterns, scales, centre, year)
        if found is not None:
            return found
    return None


def _search(
    field: Field,
    sky: Sky,
    patterns: tuple[Floats, NDArray[np.intp]],
    scales: tuple[float, float],
    pointing: Floats | None,
    year: float,
) -> Solution | None:
    trials = 0
    for number in reversed(range(LEVELS)):
        unit = sky.density(number) * field.area
        # No field is more than half the sky.
        low, high = (float(min(unit * s**2, sky.density(number) * 2.0 * np.pi)) for s in scales)
        if high < FEWEST or low > MOST:
            continue
        near = None
        if pointing is None:
            levels = sky.everywhere(number)
        else:
            largest = min(scales[1], float(np.sqrt(MOST / unit)))
            reach = float(np.arctan(field.radius * largest))
            near = (pointing, POINTING + reach)
            levels = iter((sky.near(number, pointing, POINTING + 2.0 * reach),))
        for level in levels:
            found = find_candidates(field, patterns, level, scale=scales, near=near)
            trials += found.tried
            for centre, turn, mirrored in zip(found.centre, found.turn, found.mirrored, strict=True):
                solution = verify(
                    field, sky.stars, centre, complex(turn), bool(mirrored), year=year, trials=trials
                )
                if solution is not None:
                    return solution
    return None
