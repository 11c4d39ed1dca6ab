"""Whether a field is where it may be: its stars against the catalogue's, and against chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import betainc, gammaln

from skyloom.ops.registration.placing import plane_of, sky_position, tangent_basis
from skyloom.ops.registration.sky.catalogue import BrightStars
from skyloom.ops.registration.sky.field import Field

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Complex = NDArray[np.complex128]

MOST = 400
"""Stars of the catalogue and of the field that are compared."""
LAST_RADIUS = 3.0
"""Distance (px) at which stars are one in the end."""
CHANCE = -9.0
"""log10 of the expected number of wrong solutions as good as this one, above which none is accepted."""
LEAST = 6
"""Stars of the catalogue a solution must rest on."""
_FREE = 4
"""Stars that agree by the choice of the candidate: those of its pattern."""
_DIM = 1.5
"""How many times the fewer stars, of catalogue and field, are compared of the other: their bands differ."""


@dataclass(frozen=True)
class Solution:
    """Where a field is on the sky."""

    centre: Floats
    """(3,) direction of the field's middle."""
    turn: complex
    """Radians a pixel and rotation: plane at `centre` = turn · z, z of the field's plane, −conj(z) if mirrored."""
    mirrored: bool
    rows: Indices
    """(matches,) stars of the field."""
    vectors: Floats
    """(matches, 3) their directions by the catalogue."""
    rms: float
    """Distance of the matched stars by a shift, a rotation and a scale (px)."""
    rms_bent: float
    """The same after a smooth distortion."""
    chance: float
    """log10 of the expected number of wrong solutions as good."""
    expected: int
    """Stars of the catalogue on the field, of those compared."""

    def say(self) -> str:
        """Describe the solution in a line."""
        ra, dec = sky_position(self.centre)
        scale = np.degrees(abs(self.turn)) * 3600
        return (
            f"RA {ra:.4f}° Dec {dec:+.4f}°, {scale:.4g} arcsec a pixel, {len(self.rows)} of {self.expected} "
            f"bright stars within {self.rms:.2f} px ({self.rms * scale:.2g} arcsec) rms, "
            f"odds of chance 1e{self.chance:.0f}"
        )


def verify(
    field: Field, stars: BrightStars, centre: Floats, turn: complex, mirrored: bool, *, year: float, trials: int
) -> Solution | None:
    """Compare a field with the catalogue.

    Parameters
    ----------
    field, stars
        What is compared.
    centre, turn, mirrored
        A candidate.
    year
        Of the observation (Julian year); NaN = that of the catalogue.
    trials
        Candidates this one was chosen from.

    Returns
    -------
    Solution or None
        None where chance cannot be ruled out.

    Notes
    -----
    Of m stars of the catalogue on the field k have one of the field's n stars within r. By chance each has with
    probability p = n π r² / area; the odds are the binomial tail of k − c of m − c, with c stars that agree
    because of the pattern the candidate is from and of the parameters fitted, times the trials.
    """
    z: Complex = -field.plane.conj() if mirrored else field.plane
    basis = tangent_basis(centre)
    rows = stars.around(centre, 1.02 * np.arctan(field.radius * abs(turn)))
    if len(rows) < LEAST:
        return None
    sky = plane_of(stars.at(year, rows), basis) @ (1.0, 1j)
    at: Complex = np.asarray(sky / turn, np.complex128)
    rows = rows[field.inside(-at.conj() if mirrored else at)]
    if len(rows) < LEAST:
        return None
    m = min(len(rows), int(_DIM * len(z)) + 10, MOST)
    n = min(len(z), int(_DIM * len(rows)) + 20, MOST)
    rows = rows[:m]
    vectors = stars.at(year, rows)
    z = z[:n]
    tree = cKDTree(np.stack([z.real, z.imag], axis=-1))
    spacing = np.sqrt(field.area / max(n, m))
    predicted: Complex = np.asarray(plane_of(vectors, basis) @ (1.0, 1j) / turn, np.complex128)
    ic = iz = np.empty(0, np.intp)
    freedom = 0
    for radius in _radii(max(0.3 * spacing, LAST_RADIUS)):
        ic, iz = _mutual(predicted, tree, radius)
        if len(ic) < LEAST:
            return None
        predicted, freedom = _fit(predicted, predicted[ic], z[iz])
    ic, iz = _mutual(predicted, tree, LAST_RADIUS)
    free = _FREE + freedom
    if len(ic) < max(LEAST, free + 1):
        return None
    p = min(n * np.pi * LAST_RADIUS**2 / field.area, 0.5)
    chance = _log_tail(len(ic) - free, m - free, p) + np.log10(max(trials, 1))
    if chance > CHANCE:
        return None
    bent = float(np.sqrt(np.mean(np.abs(predicted[ic] - z[iz]) ** 2)))
    centre, turn, distance = similarity_on_sky(z[iz], vectors[ic], centre)
    return Solution(
        centre, turn, mirrored, iz, vectors[ic], float(np.sqrt(np.mean(distance**2))), bent, float(chance), m
    )


def _radii(first: float) -> Floats:
    """Distances from the first to the last, each some two thirds of the one before; the last twice."""
    steps = max(int(np.ceil(np.log(first / LAST_RADIUS) / np.log(1.5))), 1)
    return np.append(first * (LAST_RADIUS / first) ** (np.arange(steps + 1) / steps), LAST_RADIUS)


def _mutual(predicted: Complex, tree: cKDTree, radius: float) -> tuple[Indices, Indices]:
    """Stars of the catalogue and of the field that are each other's nearest."""
    points = np.stack([predicted.real, predicted.imag], axis=-1)
    distance, near = tree.query(points, distance_upper_bound=radius)
    row = np.flatnonzero(np.isfinite(distance))
    order = row[np.argsort(distance[row], kind="stable")]
    _, first = np.unique(near[order], return_index=True)
    mine = np.sort(order[first])
    return mine, near[mine]


def _fit(points: Complex, a: Complex, b: Complex) -> tuple[Complex, int]:
    """Positions of points by the robust map from a to b, and how many stars it could fit by itself.

    A similarity, with more stars an affine map, then polynomials of degree 2 and 3: distortion of the optics.
    """
    centre, size = a.mean(), max(float(np.abs(a - a.mean()).max()), 1.0)
    degree = 0 if len(a) < 8 else 1 if len(a) < 20 else 2 if len(a) < 40 else 3

    def design(points: Complex) -> Floats:
        q = (points - centre) / size
        if degree == 0:
            zero, one = np.zeros(len(q)), np.ones(len(q))
            return np.concatenate(
                [np.stack([one, zero, q.real, -q.imag], -1), np.stack([zero, one, q.imag, q.real], -1)]
            )
        # Outside of the matched stars a polynomial means nothing.
        q = np.where(np.abs(q) > 1.1, q / np.maximum(np.abs(q), 1e-300) * 1.1, q) if degree > 1 else q
        x, y = q.real, q.imag
        terms = np.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)], axis=-1)
        zero = np.zeros_like(terms)
        return np.concatenate([np.hstack([terms, zero]), np.hstack([zero, terms])])

    matrix, target = design(a), np.concatenate([(b - a).real, (b - a).imag])
    weight = np.ones(len(a))
    step = np.zeros(len(a), np.complex128)
    for _ in range(4):
        root = np.sqrt(np.tile(weight, 2))
        solution = np.linalg.lstsq(matrix * root[:, None], target * root, rcond=None)[0]
        change = matrix @ solution
        step = change[: len(a)] + 1j * change[len(a) :]
        distance = np.abs(a + step - b)
        weight = np.minimum(1.0, 2.5 * max(float(np.median(distance)), 0.02) / np.maximum(distance, 1e-12))
    moved = design(points) @ solution
    return points + moved[: len(points)] + 1j * moved[len(points) :], (0, 1, 4, 8)[degree]


def _log_tail(hits: int, of: int, p: float) -> float:
    """log10 of the probability of so many hits or more (binomial)."""
    if hits <= 0:
        return 0.0
    tail = float(betainc(hits, of - hits + 1, p))
    if tail > 1e-280:
        return float(np.log10(tail))
    # Beyond what a double holds: the first term of the sum.
    choose = gammaln(of + 1) - gammaln(hits + 1) - gammaln(of - hits + 1)
    return float((choose + hits * np.log(p) + (of - hits) * np.log1p(-p)) / np.log(10.0))


def similarity_on_sky(z: Complex, vectors: Floats, centre: Floats) -> tuple[Floats, complex, Floats]:
    """Robust shift, rotation and scale of the sky from a picture.

    Parameters
    ----------
    z
        (n,) positions in the picture (px).
    vectors
        (n, 3) directions of the same stars.
    centre
        (3,) direction of z = 0, roughly.

    Returns
    -------
    centre : ndarray
        (3,) direction of z = 0.
    turn : complex
        Plane at `centre` = turn · z (radians a pixel).
    distance : ndarray
        (n,) of the stars (px).
    """
    turn, distance = 0j, np.zeros(len(z))
    for _ in range(4):
        basis = tangent_basis(centre)
        w = plane_of(vectors, basis) @ (1.0, 1j)
        weight = np.ones(len(z))
        for _ in range(6):
            total = weight.sum()
            mz, mw = (weight * z).sum() / total, (weight * w).sum() / total
            turn = complex((weight * (w - mw) * (z - mz).conj()).sum() / (weight * np.abs(z - mz) ** 2).sum())
            distance = np.abs(mw + turn * (z - mz) - w) / abs(turn)
            weight = np.minimum(1.0, 2.5 * max(float(np.median(distance)), 0.02) / np.maximum(distance, 1e-12))
        at = mw - turn * mz
        centre = basis[2] + at.real * basis[0] + at.imag * basis[1]
        centre = centre / np.linalg.norm(centre)
    return centre, turn, distance
