"""Extents of a stack: what they leave out has no data, and leaving it out changes nothing."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.integration.combine import Combination, combine
from skyloom.ops.integration.extents import BLOCK, find_extents
from skyloom.ops.integration.rejection import Method, Rejection


@st.composite
def partial_stacks(draw: st.DrawFn) -> NDArray[np.float32]:
    """Frames whose edges go through a window, and some that have a row or nothing of it."""
    frames, rows = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    columns = draw(st.sampled_from([1, 9, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 17]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    stack = rng.normal(1000, 10, (frames, rows, columns))
    # Far outliers are what rejection grows from.
    stack[rng.random(stack.shape) < 0.02] += 500
    stack[rng.random(stack.shape) < 0.05] -= 60
    edges = np.sort(rng.integers(-columns // 2, columns + columns // 2, (2, frames, rows)), axis=0)
    x = np.arange(columns)
    stack[(x < edges[0, ..., None]) | (x >= edges[1, ..., None])] = np.nan
    stack[rng.random((frames, rows)) < 0.2] = np.nan
    return stack.astype(np.float32)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(partial_stacks())
def test_extents_are_the_blocks_that_hold_data(stack: NDArray[np.float32]) -> None:
    frames, rows, columns = stack.shape
    extents = np.full((frames, rows, 2), -7, dtype=np.int32)
    find_extents(np.where(np.isfinite(stack), 100, 0).astype(np.uint8), extents)
    for i in range(frames):
        for y in range(rows):
            there = np.flatnonzero(np.isfinite(stack[i, y]))
            first, last = extents[i, y]
            if not there.size:
                assert (first, last) == (0, 0)
                continue
            assert 0 <= first <= there[0] < first + BLOCK
            assert there[-1] < last <= min(there[-1] + BLOCK, columns)


@pytest.mark.parametrize("method", ["none", "winsorized", "noise", "mad"])
@pytest.mark.parametrize("combination", ["mean", "median"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(stack=partial_stacks())
def test_what_they_leave_out_changes_nothing(
    method: Method, combination: Combination, stack: NDArray[np.float32]
) -> None:
    noise = np.linspace(8.0, 12.0, len(stack))
    codes = np.where(np.isfinite(stack), np.random.default_rng(1).integers(1, 256, stack.shape), 0).astype(
        np.uint8
    )

    def combined() -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]:
        fates = np.zeros(stack.shape, dtype=np.uint8)
        rules = Rejection(method, grow=2.0)
        made = combine(stack, codes, noise, noise**-2, rejection=rules, combination=combination, fates=fates)
        return vars(made), fates

    def whole(codes: NDArray[np.uint8], extents: NDArray[np.int32]) -> None:
        extents[...] = (0, codes.shape[2])

    got, fates = combined()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["skyloom.ops.integration.combine"], "find_extents", whole)
        wanted, wanted_fates = combined()
    np.testing.assert_array_equal(fates, wanted_fates)
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
    assert (np.isfinite(stack).sum(axis=0) > 0).sum() == (got["count"] > 0).sum()
