"""Where frames lie on a map, and what is shown of canvases too large to be read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS

from skyloom.ops.grid import Grid, wcs_header
from skyloom.workflows.report.canvas import shown_plane
from skyloom.workflows.report.canvas_section import maps_section, outlines, seams_section
from skyloom.workflows.report.facts import Project
from skyloom.workflows.store import Store

SHAPE = (200, 300)


def tangent(x: float, y: float) -> WCS:
    """North up, 1 arcsec a pixel, its reference pixel (from 0) at the pole of the projection."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-1 / 3600, 1 / 3600]
    wcs.wcs.crval, wcs.wcs.crpix = [84.0, 30.0], [x + 1, y + 1]
    return wcs


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A mosaic of three frames of 100 × 80 pixels: two on each other at (20, 30), one at (150, 90)."""
    store = Store(tmp_path)
    store.create()
    places = [(20, 30), (22.5, 31.2), (150, 90)]
    headers = [wcs_header(tangent(-x, -y)) for x, y in places]
    session = xr.Dataset(
        {
            "name": ("frame", ["a", "b", "<c>"]),
            "source": ("frame", ["", "", ""]),
            "wcs": ("frame", headers),
            "height": ("frame", [80, 80, 80]),
            "width": ("frame", [100, 100, 100]),
        },
        {"frame": ["1", "2", "3"]},
    )
    grid = Grid(wcs_header(tangent(0, 0)), SHAPE, 256)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    dims, band = ("band", "y", "x"), {"band": ["L"]}
    count = np.where((x > 100) & (y > 50), 2, 0).astype(np.uint16)
    planes = {"image": y[None] + 1000, "count": count[None], "weight": count[None] / np.float32(4)}
    mosaic = xr.Dataset({n: (dims, p) for n, p in planes.items()}, band, grid.to_attrs())
    cells = np.arange(25 * 38, dtype=np.float32).reshape(1, 25, 38)
    survey = xr.Dataset({"median": (dims, cells)}, band)
    coverage = xr.Dataset({"count": (dims, 5 * cells), "weight": (dims, 7 * cells)}, band)
    store.write_table("frames_of", "k", session, {"op": "ingest", "inputs": {}, "started": 1})
    store.write_table("mosaic", "k", mosaic, {"op": "integrate", "inputs": {"session": "frames_of"}, "started": 2})
    store.write_table("cells", "k", survey, {"op": "survey", "inputs": {"image": "mosaic"}, "started": 3})
    store.write_table("cover", "k", coverage, {"op": "coverage", "inputs": {"image": "mosaic"}, "started": 4})
    return Project(store)


def test_outlines_lie_where_the_frames_do(project: Project) -> None:
    drawn = outlines(project, project.results["mosaic"], "mosaic")
    assert drawn is not None
    assert 'viewBox="0 0 300 200"' in drawn
    shapes = re.findall(r'points="([^"]*)" data-t="([^"]*)"', drawn)
    assert [t for _, t in shapes] == ["outline of a", "outline of &lt;c&gt;"], "b lies on a"
    for (points, _), (x0, y0) in zip(shapes, [(20, 30), (150, 90)], strict=True):
        corners = np.array([[float(v) for v in p.split(",")] for p in points.split()])
        # From the left and from the top; pixel centres are at half numbers there.
        np.testing.assert_allclose(corners.min(axis=0), (x0, 200 - (y0 + 80)), atol=0.11)
        np.testing.assert_allclose(corners.max(axis=0), (x0 + 100, 200 - y0), atol=0.11)


def test_canvas_that_fits_is_read(project: Project) -> None:
    small = shown_plane(project, "mosaic", "image", index=0, side=30, budget=1e9)
    assert small.how == ""
    assert small.factor == 10
    np.testing.assert_allclose(small.pixels[3], 1034.5)


def test_of_a_large_canvas_cells_are_shown(project: Project) -> None:
    image = shown_plane(project, "mosaic", "image", index=0, side=38, budget=1e4)
    assert image.how == "medians of cells, from node cells"
    np.testing.assert_array_equal(image.pixels, np.arange(950, dtype=np.float32).reshape(25, 38))
    weight = shown_plane(project, "mosaic", "weight", index=0, side=38, budget=1e4)
    assert weight.how == "medians of cells, from node cover"
    np.testing.assert_array_equal(weight.pixels, 7 * image.pixels)
    # Cells that are too few for the map are no help.
    coarse = shown_plane(project, "mosaic", "image", index=0, side=480, budget=1e4)
    assert coarse.skipped > 1


def test_maps_and_seams_are_drawn_with_outlines(project: Project) -> None:
    maps, seams = maps_section(project), seams_section(project)
    assert maps is not None
    assert seams is not None
    assert maps.count("<img") == 2
    assert maps.count('class="outlines"') == 2
    assert seams.count("<img") == 1
    assert "rejected (" in maps
    assert "–" in maps
