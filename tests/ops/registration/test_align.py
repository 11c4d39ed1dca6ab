"""Voting on pair offsets, against planted translations."""

from __future__ import annotations

import numpy as np

from skyloom.ops.registration.align import find_offset


def test_offset_voting() -> None:
    rng = np.random.default_rng(3)
    b = rng.uniform(0, 400, (200, 2))
    a = np.concatenate([b[:80] - [11.3, -7.8] + rng.normal(0, 0.1, (80, 2)), rng.uniform(0, 400, (60, 2))])
    found = find_offset(a, b, search=30, tolerance=2, min_matches=5)
    assert found is not None
    np.testing.assert_allclose(found[0], [11.3, -7.8], atol=0.1)
    assert 80 <= found[1] <= 90
    for seed in range(100, 120):
        other = np.random.default_rng(seed).uniform(0, 400, (300, 2))
        assert find_offset(other, b, search=30, tolerance=3, min_matches=5) is None
