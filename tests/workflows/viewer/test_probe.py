"""What is under the pointer: exactly what the store and the frames have."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid
from skyloom.workflows.pixel import pixel_answer
from skyloom.workflows.store import Store
from skyloom.workflows.viewer.frames import FrameLayer
from skyloom.workflows.viewer.layer import place_on
from skyloom.workflows.viewer.probe import frames_of, value_at
from skyloom.workflows.viewer.tiles import Tiles

from .conftest import CUT, Made, canvas


@pytest.mark.parametrize(("x", "y"), [(0, 0), (500, 702), (404, 302), (1299, 1099), (511, 512)])
def test_values_are_those_of_the_store(made: Made, tiles: Tiles, x: int, y: int) -> None:
    answer = value_at(tiles, tiles.layer("wide/weight/1"), x, y)
    assert next(iter(answer["values"])) == "weight"
    assert answer["labels"] == ["R"]
    for name, pixels in made.wide.items():
        stored = pixels[1, y, x].item()
        assert answer["values"][name] == ([None] if isinstance(stored, float) and np.isnan(stored) else [stored])
    ra, dec = canvas().wcs.all_pix2world([x], [y], 0)
    assert answer["ra"] == pytest.approx(ra[0], abs=1e-12)
    assert answer["dec"] == pytest.approx(dec[0], abs=1e-12)


def test_outside_there_are_no_values(tiles: Tiles) -> None:
    answer = value_at(tiles, tiles.layer("wide/image/0"), -1, 20)
    assert not answer["inside"]
    assert "values" not in answer
    assert answer["sky"]


def test_colours_have_three_values(made: Made, tiles: Tiles) -> None:
    answer = value_at(tiles, tiles.layer("shown/image/rgb"), 33, 44)
    assert answer["labels"] == ["R", "G", "B"]
    assert answer["values"]["image"] == [float(v) for v in made.picture[:, 44, 33]]


def test_counts_come_from_the_mosaic_of_frames(tiles: Tiles) -> None:
    """`cut` has no counts: those of integrate at the same place of the sky, if it has that place."""
    store = Store(tiles.contents.store.project)
    mosaic = store.open("integrate")
    grid = Grid.from_attrs(mosaic.attrs)
    layer = tiles.layer("cut/image/0")
    at = canvas((800, 900), corner=CUT)
    answer = value_at(tiles, layer, 10, 20)
    place = place_on(at, grid)
    x, y = int((10.5) * place.scale + place.left), int((20.5) * place.scale + place.bottom)
    if 0 <= x < grid.shape[1] and 0 <= y < grid.shape[0]:
        assert answer["counts"]["values"]["count"] == [int(mosaic["count"].sel(band="L")[y, x])]
    else:
        assert answer["counts"] is None


def test_a_canvas_cut_from_another_lies_on_it(made: Made, tiles: Tiles) -> None:
    place = tiles.placement(tiles.layer("cut/image/0"), canvas())
    assert (place.left, place.bottom, place.scale) == (CUT[1], CUT[0], 1.0)
    np.testing.assert_array_equal(
        tiles.layer("cut/image/0").reduced(slice(0, 50), slice(0, 60), 1)[0],
        made.wide["image"][0, CUT[0] : CUT[0] + 50, CUT[1] : CUT[1] + 60],
    )


def test_a_finer_canvas_lies_on_another() -> None:
    coarse = canvas()
    wcs = coarse.wcs.deepcopy()
    wcs.wcs.cdelt = wcs.wcs.cdelt / 2
    wcs.wcs.crpix = (wcs.wcs.crpix - 0.5) * 2 + 0.5
    from skyloom.ops.grid import wcs_header

    fine = Grid(wcs_header(wcs), (coarse.shape[0] * 2, coarse.shape[1] * 2), 512)
    place = place_on(fine, coarse)
    assert place.scale == pytest.approx(0.5, abs=1e-9)
    assert place.left == pytest.approx(0.0, abs=1e-5)
    assert place.bottom == pytest.approx(0.0, abs=1e-5)


def middle(made: Made) -> tuple[int, int]:
    height, width = Store(made.folder).open("integrate")["image"].shape[-2:]
    return width // 2, height // 2


def test_frames_of_a_pixel(made: Made, tiles: Tiles) -> None:
    x, y = middle(made)
    answer = frames_of(tiles, tiles.layer("integrate/image/0"), x, y)
    assert answer == pixel_answer(made.folder, place=(x, y), node="integrate", band="L")
    band = answer["bands"][0]
    assert band["same"]
    assert sum(f["fraction"] for f in band["frames"]) == pytest.approx(1.0)
    assert len(band["frames"]) >= 2


def test_frames_of_a_pixel_that_is_not_there(tiles: Tiles) -> None:
    with pytest.raises(ConfigError, match="not on the canvas"):
        frames_of(tiles, tiles.layer("integrate/image/0"), 100_000, 5)


def test_a_frame_lies_on_the_canvas(made: Made, tiles: Tiles) -> None:
    """Pixels of a view are the nearest ones of the file."""
    frame = next(iter(tiles.frames.frames.values()))
    layer = tiles.layer(f"@/{frame.id}")
    assert isinstance(layer, FrameLayer)
    with fits.open(made.frames / frame.name) as file:
        pixels = np.asarray(file[0].data, dtype=np.float32)
    view = layer.reduced(slice(0, layer.shape[0]), slice(0, layer.shape[1]), 1)[0]
    found = np.argwhere(np.isfinite(view))
    assert len(found) == pytest.approx(160 * 160, rel=0.05)
    for y, x in found[:: len(found) // 50]:
        u, v, value = layer.value(int(x), int(y))
        assert value == pixels[int(np.floor(v + 0.5)), int(np.floor(u + 0.5))]
        near = pixels[max(int(v - 0.55), 0) : int(v + 1.55), max(int(u - 0.55), 0) : int(u + 1.55)]
        assert view[y, x] in near
    # Where star light is: the frame's place on the canvas is that of its sky.
    answer = value_at(tiles, layer, int(found[100][1]), int(found[100][0]))
    assert answer["frame"]["name"] == frame.name
    small = layer.reduced(slice(0, layer.shape[0]), slice(0, layer.shape[1]), 4)[0]
    assert abs(np.nanmedian(small) - np.nanmedian(view)) < 0.2 * np.nanstd(view)


def test_an_excursion_beside_the_frames_is_empty(tiles: Tiles) -> None:
    frame = next(iter(tiles.frames.frames.values()))
    layer = tiles.layer(f"@/{frame.id}")
    assert np.isnan(layer.reduced(slice(100_000, 100_200), slice(0, 200), 1)).all()
