"""Names of files: they tell what they should, or nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import PurePosixPath

import pytest

from skyloom.ops.simulation.naming import LAYOUTS
from skyloom.ops.simulation.session import SimulatedSession


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_frame_has_a_file_of_its_own(raw: SimulatedSession, layout: str) -> None:
    paths = replace(raw, layout=layout).paths
    assert len(set(paths)) == len(paths) == len(raw)
    assert len({PurePosixPath(p).name for p in paths}) == len(paths)
    assert paths == replace(raw, layout=layout).paths
    other = replace(raw, layout=layout, seed=raw.seed + 1).paths
    assert (paths == other) == (layout == "plain")


def test_layouts_are_what_they_say(raw: SimulatedSession) -> None:
    folders = {
        layout: {str(PurePosixPath(p).parent) for p in replace(raw, layout=layout).paths} for layout in LAYOUTS
    }
    assert folders["plain"] == {".", "bias", "dark", "flat"}
    assert folders["shuffled"] == {"."}
    assert len(folders["scattered"]) == 7
    assert folders["typed"] == {"Lights", "Bias", "Darks", "Flats"}
    for layout in ("shuffled", "scattered"):
        for path, frame in zip(replace(raw, layout=layout).paths, raw.descriptors(), strict=True):
            assert frame.kind not in path
    # Sorted by name, kinds are mixed.
    kinds = [f.kind for _, f in sorted(zip(replace(raw, layout="shuffled").paths, raw.descriptors(), strict=True))]
    assert sum(a != b for a, b in pairwise(kinds)) > 20
