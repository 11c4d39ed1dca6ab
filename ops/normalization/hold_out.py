"""Overlaps kept out of a solve, to see how well it foretells them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.normalization.observations import Bools, Floats, Ints, Observations

HELD = 8
"""One block in this many is held out."""
BLOCKS = 16
"""Blocks along a frame's side: some superpixels wide, since neighbours give their content away, and less than the
overlaps of panels, since surfaces are asked to foretell what lies among data, not beyond."""
_RUN = 16
"""Points to a block where nothing is known of where they lie."""


@dataclass(frozen=True)
class HoldOut:
    """What is kept out."""

    point: Bools
    """(points,): held out."""
    block: Ints
    """(points,): patch of sky of each point, numbered from 0."""

    def samples(self, observations: Observations) -> Bools:
        """Samples that are held out."""
        return np.asarray(self.point[observations.point])


def point_positions(observations: Observations, placement: Floats) -> Floats:
    """Canvas position of each point, shape (points, 2), from any frame that sees it.

    Parameters
    ----------
    observations
        With detector coordinates.
    placement
        (frames, 2, 3): canvas x, y of a frame's (u, v, 1).
    """
    out = np.zeros((observations.points, 2))
    for f in np.flatnonzero(observations.count):
        here = slice(observations.start[f], observations.start[f + 1])
        u, v = observations.u[here].astype(np.float64), observations.v[here].astype(np.float64)
        a = placement[f]
        out[observations.point[here]] = np.stack(
            [a[0, 0] * u + a[0, 1] * v + a[0, 2], a[1, 0] * u + a[1, 1] * v + a[1, 2]], axis=-1
        )
    return out


def hold_out(observations: Observations, placement: Floats | None, *, fold: int = 0) -> HoldOut:
    """Choose every eighth patch of sky, a sixteenth of a frame wide, by a hash of where it lies.

    Parameters
    ----------
    observations, placement
        As in `point_positions`; without a placement, patches are runs of neighbouring numbers.
    fold
        Which of the eight parts.
    """
    if placement is None or not len(placement) or len(observations.u) != len(observations.point):
        key = np.arange(observations.points, dtype=np.int64) // _RUN
    else:
        side = float(np.median(np.sqrt(np.abs(np.linalg.det(placement[:, :, :2]))))) / BLOCKS
        cell = np.floor(point_positions(observations, placement) / side).astype(np.int64)
        key = (cell[:, 0] << 32) ^ (cell[:, 1] & 0xFFFFFFFF)
    name, block = np.unique(key, return_inverse=True)
    held = _hash(name) % np.uint64(HELD) == np.uint64(fold)
    return HoldOut(held[block.reshape(-1)], block.reshape(-1).astype(np.int64))


def _hash(key: Ints) -> NDArray[np.uint64]:
    """SplitMix64: the same on every machine, without pattern on a grid."""
    z = key.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(z ^ (z >> np.uint64(31)))
