"""Panels and the slow modes they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.panels import coarse_space, panels, representatives


def test_coarse_space_holds_the_modes_that_overlaps_hardly_see(draw: Callable[..., Any]) -> None:
    drawn = draw(2, 1, 6)
    coarse = coarse_space(drawn.placement, 2, most=100)
    assert coarse.panels == 2
    assert np.array_equal(coarse.panel, np.repeat([0, 1], 6))
    seen, value, precision = drawn.join()
    system = System(seen, np.ones_like(precision), np.full((12, 6), 1e-12))
    # One sky-fixed quadratic over panel 0 alone costs something only where panel 1 sees it too.
    for term in range(6):
        x = coarse.transform[:, :, term] * (coarse.panel == 0)[:, None]
        inside = system.residual(np.zeros_like(value), x)
        lonely = np.bincount(seen.point, weights=coarse.panel[seen.frame] == 1) == 0
        # Detector coordinates are kept to 24 bits.
        assert np.abs(inside[lonely[seen.point]]).max() < 3e-6


def test_panels_grow_until_few_enough(draw: Callable[..., Any]) -> None:
    drawn = draw(3, 3, 2)
    assert int(panels(drawn.placement, most=9).max()) + 1 == 9
    assert int(panels(drawn.placement, most=2).max()) + 1 <= 2


def test_representatives_come_from_neighbouring_panels(draw: Callable[..., Any]) -> None:
    drawn = draw(5, 1, 8)
    present = np.ones(40, dtype=np.int64)
    present[3] = 0
    chosen = representatives(present, drawn.placement, most=12)
    assert chosen.sum() == 12
    assert not chosen[3]
    assert np.bincount(np.flatnonzero(chosen) // 8, minlength=5).tolist() == [0, 4, 4, 4, 0]
    assert representatives(present, None, most=5).sum() == 5
