"""The lines that say how well a mosaic is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from skyloom.workflows.quality import quality

N = 6
SESSION = xr.Dataset(
    {"name": ("frame", np.array([f"f{i}" for i in range(N)])), "band": ("frame", np.array(["L"] * 5 + ["Ha"]))}
)
REGISTRATION = xr.Dataset(
    {
        "use": ("frame", np.array([True] * 5 + [False])),
        "residual": ("frame", np.array([0.1, 0.2, 0.3, np.nan, 0.1, 9.0])),
        "matches": ("frame", np.array([10, 20, 30, 0, 40, 1])),
    }
)


def normalization(**changes: Any) -> xr.Dataset:
    columns = {
        "use": np.array([True] * 5 + [False]),
        "island": np.array([0, 0, 0, 0, 0, -1]),
        "mean_scale": np.linspace(0.9, 1.4, N),
        "residual_before": np.full(N, 50.0),
        "residual_after": np.full(N, 0.5),
        "inflation": np.ones(N),
        "stars": np.full(N, 12),
        **changes,
    }
    return xr.Dataset({k: ("frame", v) for k, v in columns.items()})


def lines(**results: xr.Dataset) -> list[str]:
    store: Any = SimpleNamespace(
        nodes=lambda: list(results), newest=lambda n: "key", op=lambda n: n, open=lambda n: results[n]
    )
    return quality(store)


def test_what_is_not_there_is_not_said() -> None:
    assert lines() == []
    assert lines(ingest=SESSION) == []


def test_registration_counts_used_frames_only() -> None:
    (line,) = lines(ingest=SESSION, register=REGISTRATION)
    assert line == "register: 5 frames, 4 verified on a median of 25 stars, residual 0.150 px (worst 0.300)"
    (line,) = lines(ingest=SESSION, register=REGISTRATION.assign(residual=("frame", np.full(N, np.nan))))
    assert "no stars in common" in line


def test_how_well_places_are_known_is_said_where_stars_gave_them() -> None:
    location = xr.Dataset(
        {"tie": ("frame", np.array([0.3, 0.4, np.nan])), "loops": ((), 7), "closure": ((), 0.0312)}
    )
    (line,) = lines(register=REGISTRATION, locate=location)
    assert line.endswith(
        "(worst 0.300), places good to 0.35 px across the mosaic (worst 0.4), "
        "7 loops of overlaps close to 0.031 px"
    )
    alone = location.assign(tie=("frame", np.full(3, np.nan)), loops=((), 0))
    (line,) = lines(register=REGISTRATION, locate=alone)
    assert line.endswith("(worst 0.300)")


def test_normalization_of_each_band() -> None:
    (line,) = lines(ingest=SESSION, normalize=normalization())
    assert line == (
        "normalize: L: 5 frames, scales 0.900–1.300 from a median of 12 stars, disagreement of overlaps 50 → 0.5"
    )


def test_islands_and_odd_frames_are_named() -> None:
    inflation = np.array([1, 1, 30.0, 1, 1, 50])
    found = lines(
        ingest=SESSION, normalize=normalization(island=np.array([0, 0, 0, 0, 1, -1]), inflation=inflation)
    )
    assert "disagree with all others (clouds, another field?): f2" in found[1]
    assert "2 islands without overlap" in found[2]
    assert "4 frames (f0, f1, f2 and 1 more); 1 frames (f4)" in found[2]
