"""A band of which some frames are solved already: the solution of the new ones, while the others stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.normalization.bands import BandSolution, band_samples, band_scales, solve_band, with_regions
from skyloom.ops.normalization.kept import (
    BAND,
    FRAME,
    Kept,
    change,
    expected_of,
    joined,
    kept_mosaic,
    overlaps,
    without,
)
from skyloom.ops.normalization.observations import Bools, Floats, Ints, Singles
from skyloom.ops.normalization.result import NO_ISLAND, Result, by_size
from skyloom.ops.normalization.sightings import Sightings
from skyloom.ops.normalization.sky import Sampled


@dataclass(frozen=True)
class KeptBand:
    """What came of a band."""

    solution: BandSolution | None
    """Of the new frames, or of all where they were solved anew; None without new frames."""
    anew: bool
    change: float = float("nan")
    """How far new frames lie from the sky kept (pixel noises)."""
    rows: Ints | None = None
    """Frames in use, kept and new."""
    island: Ints | None = None
    residuals: Singles | None = None
    """(stage, y, x) of `residual_map`."""


def solve_kept(
    band: str,
    members: Ints,
    sampled: Sequence[Sampled | None],
    kept: Kept,
    sightings: Sightings,
    *,
    exposure: Floats,
    units: NDArray[np.str_],
    images: int,
    anchors: int,
    frames: int,
    canvas: tuple[int, int],
    clip: float,
    degree: int | None,
    flat: Bools | None,
    group: Ints | None,
    tolerance: float,
    anew: Callable[[], BandSolution],
) -> KeptBand:
    """Solve the new frames of a band against those that are kept.

    Parameters
    ----------
    band
        Its name.
    members, sampled
        Rows of its frames and of all anchors, and their samples.
    kept
        The earlier result.
    sightings
        Of all frames.
    exposure, units
        (frame,) of the session.
    images, anchors, frames
        How many anchors are images, how many there are, and how many frames the session has.
    canvas
        Rows and columns (pixels).
    clip, degree
        As in `solve_band`.
    flat, group
        Over the frames, the anchors and one more.
    tolerance
        Pixel noises that new frames may differ from the sky kept.
    anew
        Solves all frames of the band.
    """
    own = len(members) - anchors
    rows = members[:own]
    here = np.array([s is not None for s in sampled[:own]], dtype=bool)
    known = kept.row[rows] >= 0
    held = here & known
    held[held] = np.asarray(kept.of("use", rows[held]), dtype=bool)
    new = here & ~known
    if band not in kept.bands or not held.any():
        return KeptBand(anew(), anew=True)
    by_row = {int(r): s for r, s in zip(members, sampled, strict=True) if s is not None}
    old = [by_row[r] for r in rows[held].tolist()]
    solution, departure = None, float("nan")
    if new.any():
        number = frames + anchors
        every = held | new
        expected = np.zeros(own)
        expected[every] = expected_of(rows[every], exposure, units)
        mosaic = kept_mosaic(
            rows[held], old, kept, sightings, expected=expected[held], clip=clip, canvas=canvas, number=number,
            wanted=[by_row[r] for r in (*rows[new].tolist(), *members[own:].tolist()) if r in by_row],
        )  # fmt: skip
        part = [*rows[new].tolist(), *members[own : own + images].tolist(), number]
        samples_of = [by_row.get(r) for r in part[:-1]] + [mosaic.sampled]
        scales = band_scales(
            joined(sightings, np.array(part[:-1]), mosaic.sightings), np.array(part), samples_of,
            np.full(len(part), np.nan), np.full(len(part), ""), anchors=images + 1, fixed=number,
            expected=np.append(expected[new] + mosaic.level, np.zeros(images + 1)),
        )  # fmt: skip
        places = sampled[-1] if anchors > images else None
        if places is not None:
            scales = with_regions(scales, int(members[-1]))
            part, samples_of = [*part, int(members[-1])], [*samples_of, places]
        samples = band_samples(scales, np.array(part), samples_of, canvas=canvas)
        fixed = scales.frame == number
        found = kept.spreads(band)
        solution = solve_band(
            scales, samples, clip=clip, degree=degree if found is None else found[0],
            flat=None if flat is None else flat[scales.frame],
            group=None if group is None else group[scales.frame],
            fixed=fixed, spreads=None if found is None else found[1],
        )  # fmt: skip
        departure = change(solution, samples, fixed)
        if departure > tolerance:
            return KeptBand(anew(), anew=True, change=departure)
        solution = without(solution, fixed)
    return _together(solution, departure, rows[held], old, by_row, kept, canvas)


def _together(
    solution: BandSolution | None,
    departure: float,
    held: Ints,
    old: Sequence[Sampled],
    by_row: dict[int, Sampled],
    kept: Kept,
    canvas: tuple[int, int],
) -> KeptBand:
    """Overlaps of all frames, with old and new records."""
    scale, offset, inflation = (
        np.asarray(kept.of(n, held), dtype=np.float64) for n in ("scale", "offset", "inflation")
    )
    rows, sampled = held, list(old)
    if solution is not None:
        good = ~solution.scales.anchor & np.isfinite(solution.offset).all(axis=(1, 2))
        more = solution.scales.frame[good]
        rows = np.concatenate([held, more])
        sampled += [by_row[r] for r in more.tolist()]
        scale = np.concatenate([scale, solution.scale[good]])
        offset = np.concatenate([offset, solution.offset[good]])
        inflation = np.concatenate([inflation, solution.surfaces.inflation[good]])
    order = np.argsort(rows)
    island, residuals = overlaps(
        [sampled[k] for k in order], scale[order], offset[order], inflation[order], canvas
    )
    return KeptBand(solution, False, departure, rows[order], island, residuals)


def overlay(
    out: Result, kept: Kept, solutions: Sequence[KeptBand], bands: Sequence[str], of_frame: NDArray[np.str_]
) -> None:
    """Write what is kept over a result in which the new frames are.

    Parameters
    ----------
    out
        Of `fill_in`.
    kept
        The earlier result.
    solutions, bands
        Of the bands, in their order.
    of_frame
        (frame,) band.
    """
    anew = [b for b, s in zip(bands, solutions, strict=True) if s.anew]
    rows = np.flatnonzero((kept.row >= 0) & ~np.isin(of_frame.astype(str), anew))
    for name in FRAME:
        out[name][rows] = kept.of(name, rows)
    out["kept"][rows] = True
    label = np.full(len(kept.row), NO_ISLAND, dtype=np.int64)
    islands = 0
    for number, (band, solved) in enumerate(zip(bands, solutions, strict=True)):
        out["solution_change"][number] = solved.change
        mine = np.flatnonzero((of_frame == band) & (out["island"] != NO_ISLAND))
        island = out["island"][mine]
        if solved.rows is not None and solved.island is not None and solved.residuals is not None:
            mine, island = solved.rows, by_size(solved.island)
            out["sky_residual"][number] = solved.residuals
            before = kept.bands.index(band)
            for name in BAND:
                out[name][number] = np.asarray(kept.values[name])[before]
        label[mine] = np.unique(island, return_inverse=True)[1].reshape(-1) + islands
        islands += len(np.unique(island))
    out["island"] = label
