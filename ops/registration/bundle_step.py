"""What a Gauss–Newton step of the bundle needs: slopes, priors, normal equations with the stars eliminated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse import block_diag, bsr_array, coo_array, csc_array, csr_array, hstack
from scipy.sparse.linalg import splu

from skyloom.ops.normalization.joint import conjugate_gradients

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

DEGREES = ((2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
"""Powers of x and y in the distortion of a camera."""
PRIOR_SCALE, PRIOR_SHEAR, PRIOR_FREE = 0.2, 0.3, 1e3
"""What a frame may differ from its camera's mean in scale, be sheared, and be moved or turned (px at the edge).

Focus and temperature change a focal length by 1e-5 to 1e-4, refraction stretches a frame by some 1e-4.
"""
PRIOR_WHOLE = 1e-3
"""What the mean scale of all frames may change (px at the edge)."""
_SCALE = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 1.0]) / np.sqrt(2.0)
PRIOR_RADIAL, PRIOR_TILT, PRIOR_ODD = 30.0, 10.0, 0.1
"""Distortion (px at the edge) that is radial; of a tilted or decentred lens; and of any other form.

Overlaps do not see all of it: a stretch of every frame along y moves the panels apart and nothing else.
"""
DENSE_LIMIT = 3000
"""Unknowns up to which the normal matrix is factored whole."""
SPARSE_LIMIT = 2e7
"""Entries of the normal matrix up to which its sparse factor is the preconditioner.

A mosaic of many panels has long waves, for which conjugate gradients alone would need thousands of steps. Where
more frames overlap than that there are none.
"""
_PAIRS = 1e9  # pairs of sightings of one star that are looked at
_FULL = 2e7  # entries of a sparse product that is formed dense


class Prior:
    """Inverse variances of the unknowns."""

    def __init__(self, camera: Indices, bends: int, held: int) -> None:
        # Order of the six: x: 1, q_x, q_y; y: 1, q_x, q_y.
        directions_of = {
            "x": ((1, 0, 0, 0, 0, 0), PRIOR_FREE),
            "y": ((0, 0, 0, 1, 0, 0), PRIOR_FREE),
            "turn": ((0, 0, -1, 0, 1, 0), PRIOR_FREE),
            "scale": ((0, 1, 0, 0, 0, 1), PRIOR_FREE),
            "stretch": ((0, 1, 0, 0, 0, -1), PRIOR_SHEAR),
            "shear": ((0, 0, 1, 0, 1, 0), PRIOR_SHEAR),
        }
        own = np.zeros((6, 6))
        for direction, spread in directions_of.values():
            unit = np.array(direction, dtype=np.float64)
            unit /= np.linalg.norm(unit)
            own += np.outer(unit, unit) / spread**2
        self.own = np.repeat(own[None], len(camera), axis=0)
        if len(camera):
            self.own[held] += np.diag([1.0, 0.0, 0.5, 1.0, 0.5, 0.0]) / PRIOR_WHOLE**2
            self.own[held, 2, 4] -= 0.5 / PRIOR_WHOLE**2
            self.own[held, 4, 2] -= 0.5 / PRIOR_WHOLE**2
        self.camera = camera
        self.size = np.bincount(camera).astype(np.float64)
        self.bend = _bend_precision()
        self.cameras = bends

    @property
    def block(self) -> Floats:
        """(frame, 6, 6) part of each frame."""
        return self.own + np.outer(_SCALE, _SCALE) / PRIOR_SCALE**2

    def sparse(self) -> csr_array:
        """Λ without what couples frames: their scales with the mean."""
        frames = len(self.camera)
        own = bsr_array((self.block, np.arange(frames), np.arange(frames + 1)), shape=(6 * frames, 6 * frames))
        return csr_array(block_diag([own, *[self.bend] * self.cameras], format="csr"))

    def apply(self, v: Floats) -> Floats:
        """Λ v; v is (unknowns,) or (unknowns, columns)."""
        split = 6 * len(self.camera)
        frames = v[:split].reshape(len(self.camera), 6, -1)
        out = self.own @ frames
        scale = np.einsum("j,fjc->fc", _SCALE, frames)
        mean = np.zeros((len(self.size), scale.shape[1]))
        np.add.at(mean, self.camera, scale)
        mean /= np.maximum(self.size, 1.0)[:, None]
        held = (scale - mean[self.camera]) / PRIOR_SCALE**2
        # Without a fixed scale of the whole the best agreement is that of frames shrunk to nothing.
        held += scale.sum(axis=0) / len(scale) / PRIOR_WHOLE**2
        out += _SCALE[None, :, None] * held[:, None, :]
        rest = np.einsum(
            "ij,kjc->kic", self.bend, v[split:].reshape(self.cameras, len(self.bend), frames.shape[2])
        )
        return np.concatenate([out.reshape(v[:split].shape), rest.reshape(v[split:].shape)])

    def draw(self, rng: np.random.Generator) -> Floats:
        """Vector whose covariance is Λ."""
        frames = len(self.camera)
        out = np.einsum("fij,fj->fi", np.linalg.cholesky(self.own), rng.standard_normal((frames, 6)))
        own = rng.standard_normal(frames)
        mean = np.bincount(self.camera, own, len(self.size)) / np.maximum(self.size, 1.0)
        along = (own - mean[self.camera]) / PRIOR_SCALE
        along += rng.standard_normal() / (PRIOR_WHOLE * np.sqrt(frames))
        out += along[:, None] * _SCALE
        bend = rng.standard_normal((self.cameras, len(self.bend))) @ np.linalg.cholesky(self.bend).T
        return np.concatenate([out.ravel(), bend.ravel()])


def _bend_precision() -> Floats:
    """(14, 14) inverse variances of a camera's distortion: x then y coefficients of `DEGREES`."""
    at = {degree: i for i, degree in enumerate(DEGREES)}
    y = len(DEGREES)
    likely = [
        ((at[3, 0], at[1, 2], y + at[2, 1], y + at[0, 3]), PRIOR_RADIAL),
        ((at[2, 0], y + at[1, 1]), PRIOR_TILT),
        ((at[1, 1], y + at[0, 2]), PRIOR_TILT),
        ((at[2, 0], at[0, 2]), PRIOR_TILT),
        ((y + at[2, 0], y + at[0, 2]), PRIOR_TILT),
    ]
    variance = np.eye(2 * y) * PRIOR_ODD**2
    for entries, spread in likely:
        unit = np.zeros(2 * y)
        unit[list(entries)] = 1.0 / np.sqrt(len(entries))
        variance += np.outer(unit, unit) * spread**2
    return np.asarray(np.linalg.inv(variance))


def jacobian(
    slope: Floats, linear_terms: Floats, bend_terms: Floats, frame: Indices, camera: Indices, prior: Prior
) -> csr_array:
    """Slopes of the positions by the unknowns, (2 sightings, unknowns): row 2 s + k is component k of sighting s.

    Parameters
    ----------
    slope
        (sightings, 2, 2) of the position by the pixel.
    linear_terms, bend_terms
        (sightings, 3) and (sightings, 7).
    frame, camera
        (sightings,) number of the frame, and of the camera among those with a distortion (−1 = none).
    prior
        Knows how many there are.
    """
    samples, frames = len(slope), len(prior.camera)

    def part(terms: Floats, start: Indices, here: Indices, unknowns: int) -> csr_array:
        width = 2 * terms.shape[1]
        data = slope[here][:, :, :, None] * terms[here][:, None, None, :]
        index = start[here][:, None, None] + np.arange(width, dtype=np.int32)
        entries = np.zeros(samples, np.int64)
        entries[here] = width
        pointer = np.concatenate([[0], np.cumsum(np.repeat(entries, 2))])
        columns = np.broadcast_to(index, (len(here), 2, width)).astype(np.int32)
        return csr_array((data.reshape(-1), columns.reshape(-1), pointer), shape=(2 * samples, unknowns))

    own = part(linear_terms, 6 * frame, np.arange(samples), 6 * frames)
    bent = 2 * len(DEGREES)
    shared = part(bend_terms, bent * camera, np.flatnonzero(camera >= 0), bent * prior.cameras)
    return csr_array(hstack([own, shared], format="csr"))


class NormalEquations:
    """Normal equations of all unknowns, the stars eliminated: factored while they are small, iterated else.

    Parameters
    ----------
    slopes
        From `jacobian`.
    objects, count
        Star of each sighting, and how many there are.
    weight
        (sightings,) inverse variances.
    prior
        Of the unknowns.
    """

    def __init__(self, slopes: csr_array, objects: Indices, count: int, weight: Floats, prior: Prior) -> None:
        self.prior = prior
        self._slopes, self._transposed = slopes, csr_array(slopes.T)
        self._objects, self._count, self._weight = objects, count, weight
        self._total = np.maximum(np.bincount(objects, weight, count), 1e-300)
        scaled, seen = _reduced(slopes, objects, count, weight, self._total)
        unknowns = slopes.shape[1]
        self.knows_waves = True
        """Whether the preconditioner knows how the frames hang together: a solution takes few steps."""
        self._solve: Callable[[Floats, float], Floats]
        if unknowns <= DENSE_LIMIT:
            matrix = (scaled.T @ scaled).toarray() - _square(seen)
            matrix += prior.apply(np.eye(unknowns))
            factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
            self._solve = lambda right, _: np.asarray(scipy.linalg.cho_solve(factor, right, check_finite=False))
            return
        if _entries(objects, count, slopes, len(prior.camera)) <= SPARSE_LIMIT:
            near = csc_array(scaled.T @ scaled - seen.T @ seen + prior.sparse())
        else:
            self.knows_waves = False
            near = csc_array(_diagonal(slopes, objects, weight, self._total, len(prior.camera)) + prior.sparse())
        factored = splu(near, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        self._solve = lambda right, tolerance: conjugate_gradients(
            lambda v: self.against(slopes @ v) + prior.apply(v),
            right,
            np.zeros_like(right),
            factored.solve,
            tolerance=tolerance,
            limit=4000,
        )[0]

    def centred(self, values: Floats) -> Floats:
        """W (values − mean over the star); values are (2 sightings,)."""
        v = values.reshape(-1, 2)
        sums = [np.bincount(self._objects, self._weight * v[:, k], self._count) for k in range(2)]
        mean = np.stack(sums, axis=-1) / self._total[:, None]
        return np.asarray((self._weight[:, None] * (v - mean[self._objects])).ravel())

    def against(self, values: Floats) -> Floats:
        """Jᵀ W (values − mean over the star)."""
        return np.asarray(self._transposed @ self.centred(values))

    def solve(self, right: Floats, *, tolerance: float = 1e-8) -> Floats:
        """Unknowns for a right hand side; `tolerance` is relative, where it is iterated."""
        return self._solve(right, tolerance)


def _reduced(
    slopes: csr_array, objects: Indices, count: int, weight: Floats, total: Floats
) -> tuple[csr_array, csr_array]:
    """Matrices P and Q with JᵀWJ − JᵀWS (SᵀWS)⁻¹ SᵀWJ = PᵀP − QᵀQ, S the star of each sighting."""
    scaled = csr_array(slopes.multiply(np.repeat(np.sqrt(weight), 2)[:, None]))
    column = (2 * objects[:, None] + np.arange(2)).ravel()
    share = np.sqrt(np.repeat(weight / total[objects], 2))
    stars = csr_array(coo_array((share, (np.arange(len(column)), column)), shape=(len(column), 2 * count)))
    return scaled, csr_array(stars.T @ scaled)


def _square(seen: csr_array) -> Floats:
    """QᵀQ, dense. Of a deep stack, where most frames see most stars, Q is all but full itself."""
    if seen.shape[0] * seen.shape[1] <= _FULL:
        whole = seen.toarray()
        return np.asarray(whole.T @ whole)
    return np.asarray((seen.T @ seen).toarray())


def _entries(objects: Indices, count: int, slopes: csr_array, frames: int) -> float:
    """Entries of the normal matrix: the pairs of frames that share a star, and the rows of the cameras."""
    depth = np.bincount(objects).astype(np.float64)
    if (depth**2).sum() > _PAIRS:
        return np.inf
    # Every row begins with the six unknowns of its frame.
    frame = slopes.indices[slopes.indptr[:-1:2]] // 6
    seen = csr_array(coo_array((np.ones(len(objects), np.int32), (objects, frame)), shape=(count, frames)))
    return float(36 * (seen.T @ seen).nnz + 2 * (slopes.shape[1] - 6 * frames) * slopes.shape[1])


def _diagonal(slopes: csr_array, objects: Indices, weight: Floats, total: Floats, frames: int) -> csr_array:
    """Each frame's own block of the normal matrix, and the cameras' block."""
    own = csr_array(slopes.multiply(np.sqrt(np.repeat(weight * (1.0 - weight / total[objects]), 2))[:, None]))
    frame, shared = own[:, : 6 * frames], own[:, 6 * frames :]
    return csr_array(block_diag([frame.T @ frame, shared.T @ shared], format="csr"))
