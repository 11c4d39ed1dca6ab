"""Coarse alignment: groups of frames whose stars agree up to a translation, found by voting on pair offsets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.registration.layout import Layout, inside_outline

_NEIGHBOURS = 6
_TRIES = 3

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@njit(nogil=True, cache=True, fastmath=False)
def _vote_kernel(a: Floats, b: Floats, reach: int, votes: NDArray[np.int64]) -> None:
    """Histogram of b - a in bins of one pixel, both ways up to `reach`; b ascends in its first column."""
    for i in range(len(a)):
        for j in range(np.searchsorted(b[:, 0], a[i, 0] - reach - 0.5), len(b)):
            dx, dy = b[j, 0] - a[i, 0] + reach + 0.5, b[j, 1] - a[i, 1] + reach + 0.5
            if dx >= votes.shape[1]:
                break
            if dx >= 0 and 0 <= dy < votes.shape[0]:
                votes[int(dy), int(dx)] += 1


@njit(nogil=True, cache=True, fastmath=False)
def _fits_kernel(a: Floats, b: Floats, dx: float, dy: float, radius: float, out: Floats) -> int:
    """Number of `a` that have a `b` within `radius` once moved by (dx, dy); nearest differences in `out`."""
    count = 0
    for i in range(len(a)):
        best = radius * radius
        hit = False
        for j in range(np.searchsorted(b[:, 0], a[i, 0] + dx - radius), len(b)):
            ex, ey = b[j, 0] - a[i, 0] - dx, b[j, 1] - a[i, 1] - dy
            if ex > radius:
                break
            d2 = ex * ex + ey * ey
            if d2 < best:
                best = d2
                hit = True
                out[count, 0], out[count, 1] = b[j, 0] - a[i, 0], b[j, 1] - a[i, 1]
        if hit:
            count += 1
    return count


def find_offset(
    a: Floats, b: Floats, *, search: float, tolerance: float, min_matches: int
) -> tuple[Floats, int] | None:
    """Translation that takes point set `a` onto `b`, or None.

    Parameters
    ----------
    a, b
        (n, 2) positions.
    search
        Largest offset an axis.
    tolerance
        Distance within which two points are one.
    min_matches
        Least points of `a` that must find a partner, beyond what chance gives.

    Returns
    -------
    offset, matches
        b - a, and how many points agree.

    Notes
    -----
    Votes of all pairs in a histogram; the winner must beat the same count at eight displaced places by
    four standard deviations, so that a crowded field does not match itself anywhere.
    """
    if len(a) < min_matches or len(b) < min_matches:
        return None
    b = np.ascontiguousarray(b[np.argsort(b[:, 0], kind="stable")])
    reach = max(int(np.ceil(search)), 1)
    votes = np.zeros((2 * reach + 1, 2 * reach + 1), np.int64)
    _vote_kernel(a, b, reach, votes)
    padded = np.pad(votes, 1)
    smooth = sum(padded[i : i + votes.shape[0], j : j + votes.shape[1]] for i in range(3) for j in range(3))
    out = np.empty((len(a), 2))
    row, column = np.unravel_index(int(np.argmax(smooth)), votes.shape)
    guess = np.array([column - reach, row - reach], dtype=np.float64)
    for radius in (tolerance, tolerance, 0.5 * tolerance):
        count = _fits_kernel(a, b, guess[0], guess[1], radius, out)
        if count < min(min_matches, 3):
            return None
        guess = np.median(out[:count], axis=0)
    count = _fits_kernel(a, b, guess[0], guess[1], tolerance, out)
    angles = np.arange(8) * np.pi / 4
    chance = np.mean(
        [
            _fits_kernel(a, b, guess[0] + 4 * tolerance * c, guess[1] + 4 * tolerance * s, tolerance, out)
            for c, s in zip(np.cos(angles), np.sin(angles), strict=True)
        ]
    )
    if count < min_matches or count < chance + 4 * np.sqrt(chance + 1):
        return None
    return guess, int(count)


@dataclass
class Coarse:
    """What `align` returns (canvas pixels)."""

    offset: Floats
    """(frame, 2) translation to the frame's group."""
    group: NDArray[np.int64]
    """-1: no stars to compare."""
    rival: dict[int, tuple[int, int]]
    """Frame → (stars in the overlap, overlapping frames) that contradict it."""


def align(
    layout: Layout,
    points: dict[int, Floats],
    usable: Bools,
    *,
    search: float,
    tolerance: float,
    min_matches: int,
    fixed: Bools | None = None,
) -> Coarse:
    """Grow groups of frames whose stars agree up to a translation, each frame compared with its neighbours.

    A frame that contradicts its neighbours starts a group of its own, so a wrong first frame harms nobody.

    Parameters
    ----------
    layout
        Geometry of the frames.
    points
        Frame → (stars, 2) canvas positions by the frame's own WCS.
    usable
        (frame,): frames to align.
    search, tolerance
        As in `find_offset`, in pixels of the frame.
    min_matches
        As in `find_offset`; frames with fewer stars are not compared.
    fixed
        (frame,): frames whose place is known. They are the first group, stay where they are, and are contradicted
        by none.
    """
    n = len(layout.radius)
    offset, group = np.zeros((n, 2)), np.full(n, -1, np.int64)
    with_stars = np.zeros(n, np.bool_)
    with_stars[[i for i, p in points.items() if len(p) >= min_matches]] = True
    with_stars &= usable
    seeds = sorted(np.nonzero(with_stars)[0].tolist(), key=lambda i: (-len(points[i]), i))
    label = 0
    held = with_stars & (np.zeros(n, np.bool_) if fixed is None else fixed)
    group[held] = 0
    beside = [i for i in np.nonzero(with_stars & ~held)[0].tolist() if layout.overlapping(i, held, limit=1)]
    for seed in ([-1] if held.any() else []) + seeds:
        if seed >= 0 and group[seed] >= 0:
            continue
        tries = np.zeros(n, np.int64)
        if seed < 0:
            frontier = deque(beside)
        else:
            group[seed] = label
            frontier = deque(layout.overlapping(seed, with_stars & (group < 0)))
        pending = np.zeros(n, np.bool_)
        pending[list(frontier)] = True
        while frontier:
            frame = frontier.popleft()
            pending[frame] = False
            tries[frame] += 1
            members = layout.overlapping(frame, group == label, limit=_NEIGHBOURS)
            target = np.concatenate([points[m] + offset[m] for m in members])
            scale = layout.scale[frame]
            found = find_offset(
                points[frame],
                target,
                search=search * scale,
                tolerance=tolerance * scale,
                min_matches=min_matches,
            )
            if found is None and _agrees(points[frame], target, tolerance * scale):
                found = np.zeros(2), 3
            if found is None:
                continue
            offset[frame], group[frame] = found[0], label
            more = layout.overlapping(frame, with_stars & (group < 0) & (tries < _TRIES) & ~pending)
            pending[more] = True
            frontier.extend(more)
        label += 1
    _centre_groups(offset, group, first=int(held.any()))
    return Coarse(offset, group, _contradictions(layout, points, group, min_matches, held=bool(held.any())))


def _agrees(a: Floats, b: Floats, tolerance: float) -> bool:
    """Whether a narrow overlap confirms the WCS: no offset to search for, so three stars can be enough."""
    b = np.ascontiguousarray(b[np.argsort(b[:, 0], kind="stable")])
    out = np.empty((len(a), 2))
    count = _fits_kernel(a, b, 0.0, 0.0, tolerance, out)
    step = 4 * tolerance
    chance = np.mean(
        [_fits_kernel(a, b, dx, dy, tolerance, out) for dx, dy in ((step, 0), (-step, 0), (0, step), (0, -step))]
    )
    return bool(count >= 3 and count > chance + 3 * np.sqrt(chance) + 1)


def _centre_groups(offset: Floats, group: NDArray[np.int64], *, first: int = 0) -> None:
    """Let most frames of each group, from the first on, stay where their WCS puts them."""
    for label in range(first, int(group.max(initial=-1)) + 1):
        members = group == label
        offset[members] -= np.median(offset[members], axis=0)


def _contradictions(
    layout: Layout, points: dict[int, Floats], group: NDArray[np.int64], min_matches: int, *, held: bool = False
) -> dict[int, tuple[int, int]]:
    """Frames that overlap a larger group by enough stars to have been found in it, and were not."""
    sizes = np.bincount(group[group >= 0]) if (group >= 0).any() else np.zeros(0, np.intp)
    if held:
        sizes[0] += len(group)
    rival: dict[int, tuple[int, int]] = {}
    bad: set[int] = set()
    for label in np.argsort(-sizes, kind="stable").tolist():
        members = np.nonzero(group == label)[0].tolist()
        against: dict[int, tuple[int, int]] = {}
        for frame in members:
            among = _larger(group, sizes, label) & ~np.isin(group, list(bad))
            others = layout.overlapping(frame, among)
            if not others:
                continue
            covered, common = np.zeros(len(points[frame]), np.bool_), 0
            for other in others[:_NEIGHBOURS]:
                mine = inside_outline(points[frame], layout.polygon[other])
                covered |= mine
                # The shallower of the two says how many stars both can have.
                common += min(int(mine.sum()), int(inside_outline(points[other], layout.polygon[frame]).sum()))
            expected = min(int(covered.sum()), common)
            if expected >= 3 * min_matches:
                against[frame] = (expected, len(others))
        if against:
            # One group is one rigid piece: when a member contradicts the rest, all of it does.
            bad.add(label)
            worst = max(against.values())
            rival.update({f: against.get(f, worst) for f in members})
    return rival


def _larger(group: NDArray[np.int64], sizes: NDArray[np.intp], label: int) -> Bools:
    rank = np.empty(sizes.size, np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(sizes.size)
    out = np.zeros(group.size, np.bool_)
    placed = group >= 0
    out[placed] = rank[group[placed]] < rank[label]
    return out
