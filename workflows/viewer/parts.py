"""Views put together from parts: what a tile shares with its neighbours is decoded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from skyloom.workflows.viewer.kept import Kept
from skyloom.workflows.viewer.layer import StoredLayer

Pixels = NDArray[np.float32]
SIDE = 256
"""Least side of a part (pixels), twice that where it is made smaller."""
_LARGEST = 2048


class Parts:
    """Parts of stored layers, within a budget of memory.

    Parameters
    ----------
    budget
        Bytes.
    """

    def __init__(self, budget: int) -> None:
        self._kept: Kept[Pixels] = Kept(budget, lambda a: a.nbytes)

    def means(self, layer: StoredLayer, rows: slice, columns: slice, factor: int) -> Pixels:
        """Means over blocks of a window of a layer, as `StoredLayer.reduced` has them."""
        return self._joined(
            layer, layer.shape, (rows, columns), factor, part_side(layer.chunk, factor),
            lambda rows, columns: (
                (1, factor, layer.state(rows, columns)),
                lambda: layer.reduced(rows, columns, factor),
            ),
        )  # fmt: skip

    def level(self, layer: StoredLayer, level: int, rows: slice, columns: slice) -> Pixels:
        """Window of a level of a layer's pyramid, in the level's pixels."""
        height, width = (-(-n // level) for n in layer.shape)
        return self._joined(
            layer, (height, width), (rows, columns), 1, part_side(layer.chunk, 1),
            lambda rows, columns: ((level, 1, ()), lambda: layer.level(level, rows, columns)),
        )  # fmt: skip

    def _joined(
        self, layer: StoredLayer, shape: tuple[int, int], window: tuple[slice, slice], factor: int, side: int,
        work: Callable[[slice, slice], tuple[tuple[object, ...], Callable[[], Pixels]]],
    ) -> Pixels:  # fmt: skip
        """Window of parts; `work` says of one its key, and how it is made."""
        first = [s.start // factor for s in window]
        size = [-(-(s.stop - s.start) // factor) for s in window]
        out = np.empty((layer.count, *size), np.float32)
        for place in product(*(range(s.start // side, (s.stop - 1) // side + 1) for s in window)):
            part = [slice(p * side, min((p + 1) * side, n)) for p, n in zip(place, shape, strict=True)]
            key, make = work(*part)
            view = self._kept.get((layer.name, layer.result.key, *key, *place), make)
            begins = [p.start // factor - f for p, f in zip(part, first, strict=True)]
            inside = [(max(b, 0), min(b + n, s)) for b, n, s in zip(begins, view.shape[1:], size, strict=True)]
            target = tuple(slice(*i) for i in inside)
            source = tuple(slice(a - b, c - b) for (a, c), b in zip(inside, begins, strict=True))
            out[(slice(None), *target)] = view[(slice(None), *source)]
        return out


def part_side(chunk: int, factor: int) -> int:
    """Side of a part: whole chunks and whole blocks of factor × factor pixels, where that is not too large."""
    side = math.lcm(chunk, factor)
    if side > _LARGEST:
        return max(factor, SIDE)
    while side < SIDE * min(factor, 2):
        side *= 2
    return side
