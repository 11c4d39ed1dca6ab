"""Islands of what is bright in a frame, cut out and laid side by side in a small picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

SEA = np.float32(-1e30)
"""Value of a pixel that no island needs: smoothed with any positive value, it stays below every level."""
_RIM = 2  # pixels around an island: its neighbours, and one of sea beyond them
_LOWER = 1.0 - 1e-4  # sums in another order round otherwise: an island may have a pixel too many, none too few


@dataclass(frozen=True)
class Islands:
    """A small picture of a frame's islands, and where they come from."""

    picture: NDArray[np.float32]
    """Shape (rows, columns): pixels of the islands and their neighbours, `SEA` elsewhere."""
    _shelf: NDArray[np.int64]
    """(rows of the picture,): shelf of each row."""
    _place: NDArray[np.int64]
    """(islands,): shelf times columns of the picture + first column, ascending."""
    _shift: NDArray[np.int64]
    """(islands, 2): what is added to columns and rows of the picture."""

    def shift(
        self, column: NDArray[np.int64], row: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What leads from pixels of the picture to their columns and rows in the frame."""
        key = self._shelf[row] * self.picture.shape[1] + column
        island = np.searchsorted(self._place, key, side="right") - 1
        return self._shift[island, 0], self._shift[island, 1]


def cut_islands(image: NDArray[np.float32], *, level: float, smallest: int) -> Islands | None:
    """Cut out what is above a level in the smoothed frame.

    Whoever smooths the picture in place of the frame finds, above the level, the same pixels with the same values.

    Parameters
    ----------
    image
        Shape (rows, columns), finite.
    level
        Of the frame smoothed with 1-2-1 in both directions (sum 1; 0 beyond the edges), > 0.
    smallest
        Pixels an island has at least; pixels that touch at a corner are neighbours.

    Returns
    -------
    Islands or None
        None where most of the frame is bright: then the picture would be no smaller.
    """
    height, width = image.shape
    room = height * width // 16 + 16
    runs = np.empty((room, 4), np.int32)
    count = _find_runs(image, np.float32(level * _LOWER), runs)
    if count < 0:
        return None
    runs = runs[:count]
    roots = runs[:, 3]
    boxes = _boxes(runs)
    kept = np.nonzero(boxes[:, 4] >= smallest)[0]
    boxes = boxes[kept]
    x0, y0 = boxes[:, 0] - _RIM, boxes[:, 1] - _RIM
    across, down = boxes[:, 2] + _RIM - x0, boxes[:, 3] + _RIM - y0
    area = int((across * down).sum())
    if area > image.size // 2:
        return None
    columns = max(int(across.max(initial=1)), int(np.sqrt(area)) + 1)
    tallest = np.argsort(-down, kind="stable")
    kept, x0, y0, across, down = kept[tallest], x0[tallest], y0[tallest], across[tallest], down[tallest]
    left, top, shelf, rows = _lay(across, down, columns)
    if rows * columns > image.size // 2:
        return None
    shift = np.zeros((len(boxes), 2), np.int64)
    shift[:, 0], shift[:, 1] = x0 - left, y0 - top
    island_of = np.full(count, -1, np.int32)
    island_of[kept] = np.arange(kept.size)
    picture = np.full((rows, columns), SEA, np.float32)
    _fill(image, runs, island_of[roots], shift, picture)
    return Islands(picture, shelf, shelf[top] * columns + left, shift)


@njit(nogil=True, cache=True, fastmath=False)
def _find_runs(image: NDArray[np.float32], level: np.float32, runs: NDArray[np.int32]) -> int:
    """Runs of pixels above the level: row, first column, column behind the last, first run of the island.

    Returns their number, -1 if there is no room for them.
    """
    height, width = image.shape
    down = np.zeros(width + 2, np.float32)
    smooth = np.empty(width, np.float32)
    nothing = np.zeros(width, np.float32)
    limit = np.float32(16.0) * level
    two = np.float32(2.0)
    count, above, here = 0, 0, 0
    for y in range(height):
        upper = image[y - 1] if y > 0 else nothing
        lower = image[y + 1] if y + 1 < height else nothing
        middle = image[y]
        for x in range(width):
            down[x + 1] = upper[x] + two * middle[x] + lower[x]
        for x in range(width):
            smooth[x] = down[x] + two * down[x + 1] + down[x + 2]
        # Runs of the row above are those from `above` to `here`; `last` is the first that may still touch.
        above, here = here, count
        last, x = above, 0
        while x < width:
            if smooth[x] <= limit:
                x += 1
                continue
            if count == len(runs):
                return -1
            start = x
            while x < width and smooth[x] > limit:
                x += 1
            root = count
            runs[count, 0], runs[count, 1], runs[count, 2], runs[count, 3] = y, start, x, root
            while last < here and runs[last, 2] < start:
                last += 1
            other = last
            while other < here and runs[other, 1] <= x:
                found = _root(runs, other)
                if found < root:
                    runs[root, 3] = found
                    root = found
                elif root < found:
                    runs[found, 3] = root
                other += 1
            runs[count, 3] = root
            count += 1
    for i in range(count):
        runs[i, 3] = _root(runs, i)
    return count


@njit(nogil=True, cache=True, fastmath=False)
def _root(runs: NDArray[np.int32], i: int) -> int:
    while runs[i, 3] != i:
        runs[i, 3] = runs[runs[i, 3], 3]
        i = runs[i, 3]
    return i


@njit(nogil=True, cache=True, fastmath=False)
def _boxes(runs: NDArray[np.int32]) -> NDArray[np.int64]:
    """First and last + 1 column and row of each island, and its pixels, where its first run is; 0 elsewhere."""
    out = np.zeros((len(runs), 5), np.int64)
    for i in range(len(runs)):
        y, start, stop, root = runs[i]
        if root == i:
            out[i, 0], out[i, 1], out[i, 2] = start, y, stop
        out[root, 0] = min(out[root, 0], start)
        out[root, 2] = max(out[root, 2], stop)
        out[root, 3] = y + 1
        out[root, 4] += stop - start
    return out


@njit(nogil=True, cache=True, fastmath=False)
def _lay(
    across: NDArray[np.int64], down: NDArray[np.int64], columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Lay boxes on shelves, the tallest first: first columns and rows, the shelf of each row, number of rows."""
    left, top = np.zeros(len(across), np.int64), np.zeros(len(across), np.int64)
    shelf = np.zeros(down.sum() + 1, np.int64)
    x, y, rows, number = 0, 0, 1, 0
    for i in range(len(across)):
        if x + across[i] > columns:
            x, y = 0, rows
            number += 1
        if x == 0:
            rows = y + down[i]
            shelf[y:rows] = number
        left[i], top[i] = x, y
        x += across[i]
    return left, top, shelf[:rows], rows


@njit(nogil=True, cache=True, fastmath=False)
def _fill(
    image: NDArray[np.float32],
    runs: NDArray[np.int32],
    island: NDArray[np.int32],
    shift: NDArray[np.int64],
    picture: NDArray[np.float32],
) -> None:
    """Copy pixels of islands and their neighbours; neighbours beyond the frame are 0, as for who smooths it."""
    height, width = image.shape
    for i in range(len(runs)):
        if island[i] < 0:
            continue
        dx, dy = shift[island[i]]
        for y in range(runs[i, 0] - 1, runs[i, 0] + 2):
            for x in range(runs[i, 1] - 1, runs[i, 2] + 1):
                inside = 0 <= y < height and 0 <= x < width
                picture[y - dy, x - dx] = image[y, x] if inside else np.float32(0.0)
