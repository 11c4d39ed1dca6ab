"""Panels: frames that look at nearly the same sky, and what such frames can share without disagreeing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.normalization.joint import Coarse
from skyloom.ops.normalization.legendre import HIGHEST_ORDER, ORDERS, legendre

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PANEL_RADIUS = 0.35
"""Frames whose centres lie closer than this part of a frame's side make one panel of the coarse space."""
COARSE_ORDER, MOST_PANELS = 2, 4096
"""Least degree of the panels' surfaces in the coarse space, and panels at most: where one of the coarse space must
stand for several, conjugate gradients take thousands of steps."""
COARSE_UNKNOWNS = 6144
"""Up to here panels get surfaces of the frames' own degree: what frames of a panel share is slow in every degree,
as only the prior holds it (10 steps instead of 300 with quadratics below surfaces of degree 4)."""


def panels(placement: Floats, *, most: int) -> Ints:
    """Group frames that look at nearly the same sky.

    Parameters
    ----------
    placement
        (frames, 2, 3): canvas x, y of a frame's (u, v, 1).
    most
        Groups at most; the radius grows until it holds.

    Returns
    -------
    ndarray
        Group of each frame, 0….
    """
    centre = placement @ np.array([0.5, 0.5, 1.0])
    side = np.sqrt(np.abs(np.linalg.det(placement[:, :, :2])))
    tree = cKDTree(centre)
    radius = PANEL_RADIUS * float(np.median(side))
    while True:
        label = np.full(len(centre), -1, dtype=np.int64)
        count = 0
        for index in range(len(centre)):
            if label[index] >= 0:
                continue
            near = np.asarray(tree.query_ball_point(centre[index], radius))
            label[near[label[near] < 0]] = count
            count += 1
        if count <= most:
            return label
        radius *= 1.5


def coarse_space(placement: Floats, order: int, *, most: int, flat: NDArray[np.bool_] | None = None) -> Coarse:
    """Sky-fixed surfaces of low degree over each panel, in every frame's own coordinates (of degree ≤ order).

    Total degree survives rotation and shift, so these are exactly the surfaces which frames of a panel can share
    without disagreeing: the slow modes. (Surfaces fixed to the detector are not: dithers and flips tell them
    apart.) Frames that are `flat` move up and down only, each on its own.
    """
    if flat is not None and flat.any():
        return _with_flat(coarse_space(placement[~flat], order, most=most), flat)
    label = panels(placement, most=most)
    groups = int(label.max()) + 1
    members = np.bincount(label, minlength=groups)
    centre = placement @ np.array([0.5, 0.5, 1.0])
    total = [np.bincount(label, weights=centre[:, k], minlength=groups) for k in (0, 1)]
    middle = np.stack(total, axis=-1) / members[:, None]
    half = 0.5 * float(np.median(np.sqrt(np.abs(np.linalg.det(placement[:, :, :2])))))
    nodes = np.linspace(0.0, 1.0, HIGHEST_ORDER + 2)
    u, v = (g.ravel() for g in np.meshgrid(nodes, nodes))
    own = np.linalg.pinv(legendre(2.0 * u - 1.0, 2.0 * v - 1.0, order))
    sky = placement @ np.stack([u, v, np.ones_like(u)])
    local = (sky - middle[label][:, :, None]) / half
    degree = order
    while degree > COARSE_ORDER and groups * len(ORDERS[degree]) > COARSE_UNKNOWNS:
        degree -= 1
    smooth = legendre(local[:, 0], local[:, 1], degree)
    return Coarse(label, np.einsum("kn,fnm->fkm", own, smooth))


def _with_flat(coarse: Coarse, flat: NDArray[np.bool_]) -> Coarse:
    """Add a level of its own for each flat frame."""
    label = np.empty(len(flat), dtype=np.int64)
    label[~flat] = coarse.panel
    label[flat] = coarse.panels + np.arange(np.count_nonzero(flat))
    transform = np.zeros((len(flat), *coarse.transform.shape[1:]))
    transform[~flat] = coarse.transform
    transform[flat, 0, 0] = 1.0
    return Coarse(label, transform)


def representatives(present: Ints, placement: Floats | None, *, most: int) -> NDArray[np.bool_]:
    """Choose frames that stand for all: some of each panel, neighbouring panels first.

    Parameters
    ----------
    present
        Samples of each frame; frames without are not chosen.
    placement
        As in `panels`; None chooses at random.
    most
        Frames at most.
    """
    generator = np.random.default_rng(0)
    shuffled = generator.permutation(np.flatnonzero(present))
    chosen = np.zeros(len(present), dtype=bool)
    if placement is None:
        chosen[shuffled[:most]] = True
        return chosen
    label = panels(placement, most=len(placement))[shuffled]
    each = max(4, most // len(np.unique(label)))
    by_panel = np.argsort(label, kind="stable")
    start = np.searchsorted(label[by_panel], label)
    rank = np.empty(len(label), dtype=np.int64)
    rank[by_panel] = np.arange(len(label))
    candidates = shuffled[rank - start < each]
    centre = placement[candidates] @ np.array([0.5, 0.5, 1.0])
    distance = np.hypot(*(centre - np.median(centre, axis=0)).T)
    chosen[candidates[np.argsort(distance)][:most]] = True
    return chosen
