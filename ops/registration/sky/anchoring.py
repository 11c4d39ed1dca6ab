"""An island that no header places, placed by the sky itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.registration.anchor import Hint, first_place, place_wcs
from skyloom.ops.registration.bundle import Bundle, Sightings
from skyloom.ops.registration.bundle_step import DEGREES
from skyloom.ops.registration.placing import Place, rescale, tangent_basis, unit_vector
from skyloom.ops.registration.sky.catalogue import catalogue_file
from skyloom.ops.registration.sky.field import Field, make_field
from skyloom.ops.registration.sky.programs import PATIENCE, program_installed, solve_with_program
from skyloom.ops.registration.sky.search import sky_of, solve_field
from skyloom.ops.registration.sky.verify import Solution

Floats = NDArray[np.float64]
Solver = Literal["auto", "never", "catalogue", "solve-field"]

_AUTO_PATIENCE = 20  # s of computing of a program nobody asked for


Laid = tuple[dict[int, Place], Bundle, Sightings]

_AUTO_PATIENCE = 20  # s of computing of a program nobody asked for
_SAME_SCALE = 2e-3  # within which an island need not be laid anew
_MEMORY = 220e6


@dataclass(frozen=True)
class Anchored:
    """An island on the sky."""

    laid: Laid
    solution: Solution


def anchor_island(
    laid: Laid,
    lay: Callable[[Mapping[int, Hint]], Laid],
    hints: Mapping[int, Hint],
    stars: Mapping[int, Floats],
    camera: Mapping[int, int],
    half: Mapping[int, float],
    shapes: Mapping[int, tuple[int, int]],
    year: float,
    solver: Solver,
) -> tuple[Anchored | None, str]:
    """Look an island up on the sky and lay it there.

    Parameters
    ----------
    laid
        The island: its places, their solution and the sightings that is from.
    lay
        Lays the island again, from other hints.
    hints
        What the headers of its frames say.
    stars, camera, half, shapes
        As in `make_field`.
    year
        Of the observation; NaN = unknown.
    solver
        As `solve` of `locate`.

    Returns
    -------
    anchored : Anchored or None
    reason : str
        Why it was not found; "" where it was.

    Notes
    -----
    On a sphere frames fit together at one scale only. Where the island was laid at another, it is laid again from
    the places found, and looked up once more.
    """
    if solver == "never":
        return None, "solve = never"
    places, bundle, sightings = laid
    frames = sorted(places)
    scale = _scale(places, hints)
    pointing = _pointing(places, hints)
    field = make_field(places, camera, half, shapes, {f: stars[f] for f in frames}, bundle.distortion)
    solution, why = find_sky(field, scale=scale, pointing=pointing, year=year, solver=solver)
    if solution is None:
        return None, why
    settled = settle(places, field, solution)
    factor = abs(solution.turn) / field.pixel
    if len(frames) > 1 and abs(factor - 1.0) > _SAME_SCALE:
        none = np.zeros((2, len(DEGREES)))
        known = {f: replace(hints[f], wcs=place_wcs(settled[f], half[f], none)) for f in frames}
        places, bundle, sightings = lay(known)
        field = make_field(places, camera, half, shapes, {f: stars[f] for f in frames}, bundle.distortion)
        again, _ = find_sky(
            field, scale=field.pixel, pointing=np.asarray(field.basis[2]), year=year, solver=solver
        )
        if again is not None:
            return Anchored((settle(places, field, again), bundle, sightings), again), ""
    return Anchored((settled, laid[1], laid[2]), solution), ""


def find_sky(
    field: Field, *, scale: float, pointing: Floats | None, year: float, solver: Solver
) -> tuple[Solution | None, str]:
    """Look a field up with what is installed.

    Parameters
    ----------
    field
        Stars of an island.
    scale
        Radians a pixel by the headers; NaN = unknown.
    pointing
        (3,) direction of the middle by the headers.
    year
        Of the observation; NaN = unknown.
    solver
        As `solve` of `locate`.

    Returns
    -------
    solution : Solution or None
    reason : str
        Why there is none; "" where there is one.
    """
    file, program = catalogue_file(), program_installed()
    if solver == "catalogue" and file is None:
        return None, "no star catalogue is installed: pip install 'skyloom[solve]'"
    if solver == "auto" and file is None and not program:
        return None, "neither a star catalogue (pip install 'skyloom[solve]') nor solve-field is installed"
    if solver == "auto" and not np.isfinite(scale):
        return None, "no header says focal length and pixel size; solve = catalogue searches at all scales"
    reasons = []
    if file is not None and solver in ("auto", "catalogue"):
        sky = sky_of(file)
        solution = solve_field(
            field,
            sky,
            scale=scale,
            pointing=pointing,
            year=year,
            everywhere=solver == "catalogue",
        )
        if solution is not None:
            return solution, ""
        reasons.append(_why(field, scale, len(sky.stars)))
    if (program and solver == "auto") or solver == "solve-field":
        patience = PATIENCE if solver == "solve-field" else _AUTO_PATIENCE
        solution, why = solve_with_program(field, scale=scale, pointing=pointing, patience=patience)
        if solution is not None:
            return solution, ""
        reasons.append(why)
    return None, "; ".join(reasons)


def sky_memory(solver: str) -> float:
    """Bytes that looking up takes: the catalogue and the patterns of a patch of it."""
    return _MEMORY if solver == "catalogue" or (solver == "auto" and catalogue_file() is not None) else 0.0


def settle(places: Mapping[int, Place], field: Field, solution: Solution) -> dict[int, Place]:
    """Turn (and mirror) the island onto the sky, and give it its scale.

    Parameters
    ----------
    places
        Of the island the field was made of.
    field, solution
        The field, and where it is.
    """
    angle = np.angle(solution.turn)
    c, s = np.cos(angle), np.sin(angle)
    flip = np.diag([-1.0 if solution.mirrored else 1.0, 1.0, 1.0])
    turn = tangent_basis(solution.centre).T @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ flip @ field.basis
    out = {}
    for f, place in places.items():
        centre = turn @ place.centre
        old, new = place.basis @ turn.T, tangent_basis(centre)
        out[f] = replace(place, centre=centre, linear=(new[:2] @ old[:2].T) @ place.linear)
    return rescale(out, abs(solution.turn) / field.pixel)


def _scale(places: Mapping[int, Place], hints: Mapping[int, Hint]) -> float:
    """Radians a pixel of the median frame as the headers say; NaN = none does."""
    ratios = []
    for f, place in places.items():
        hint = hints[f]
        said = np.radians(hint.scale / 3600.0)
        if not np.isfinite(said) and hint.wcs:
            said = first_place(hint, place.middle).scale
        ratios.append(said / place.scale)
    good = np.array(ratios)[np.isfinite(ratios)]
    size = float(np.median([p.scale for p in places.values()]))
    return float(np.median(good)) * size if len(good) else float("nan")


def _pointing(places: Mapping[int, Place], hints: Mapping[int, Hint]) -> Floats | None:
    """Direction of the island's middle by the headers; None where they say nothing, or contradict each other."""
    known = []
    for f, place in places.items():
        hint = hints[f]
        if hint.wcs:
            known.append(first_place(hint, place.middle).centre)
        elif np.isfinite([hint.ra, hint.dec]).all():
            known.append(unit_vector(hint.ra, hint.dec))
    if not known:
        return None
    middle = np.median(known, axis=0)
    length = float(np.linalg.norm(middle))
    return np.asarray(middle / length) if length > 0.5 else None


def _why(field: Field, scale: float, stars: int) -> str:
    """Reason why the catalogue gave no solution."""
    if not np.isfinite(scale):
        return f"the {len(field.vectors)} stars match the catalogue nowhere beyond chance"
    area = field.area * scale**2 * np.degrees(1.0) ** 2
    expected = stars / 41253.0 * area
    return (
        f"the {len(field.vectors)} stars match the catalogue nowhere beyond chance (field of {area:.2g} square "
        f"degrees, some {expected:.0f} stars of the catalogue)"
    )


def year_of(dates: Sequence[str]) -> float:
    """Julian year of the middle one of dates (ISO); NaN where none can be read."""
    years = []
    for text in dates:
        try:
            moment = datetime.fromisoformat(str(text).rstrip("Z"))
        except ValueError:
            continue
        years.append(
            2000.0 + (moment.replace(tzinfo=None) - datetime(2000, 1, 1, 12)).total_seconds() / 31557600.0
        )
    return float(np.median(years)) if years else float("nan")
