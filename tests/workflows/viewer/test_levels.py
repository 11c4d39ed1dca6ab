"""Smaller views: means over all pixels in the end, a sample of them first, and what a run adds."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.pyramid import block_mean, quick_block_mean
from skyloom.workflows.store import Store
from skyloom.workflows.viewer import levels
from skyloom.workflows.viewer.contents import Contents
from skyloom.workflows.viewer.layer import StoredLayer, stored_layer
from skyloom.workflows.viewer.levels import Levels, last_factor
from skyloom.workflows.viewer.parts import part_side
from skyloom.workflows.viewer.tiles import Geometry, Tiles

from .conftest import SHAPE, Made, canvas, wide_arrays, write_result

WHOLE = slice(0, SHAPE[0]), slice(0, SHAPE[1])


def means(pixels: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Views are means of the view that is kept, as the levels of a pyramid are of the level before."""
    return block_mean(block_mean(pixels, min(factor, 4)), max(factor // 4, 1))


def layer_of(folder: Path, name: str) -> StoredLayer:
    contents = Contents(Store(folder))
    node, variable, plane = name.split("/")
    result = contents.result(node)
    return stored_layer(result, variable, plane, revision=contents.revision(result))


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7, 64])
def test_quick_means_are_the_means(factor: int) -> None:
    rng = np.random.default_rng(4)
    pixels = rng.normal(1000, 10, (100, 131)).astype(np.float32)
    pixels[rng.random(pixels.shape) < 0.3] = np.nan
    pixels[:70, :70] = np.nan
    np.testing.assert_allclose(quick_block_mean(pixels, factor), block_mean(pixels, factor), rtol=1e-7)


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16])
def test_views_are_means_over_blocks(made: Made, factor: int) -> None:
    view = Levels().view(layer_of(made.folder, "wide/image/1"), *WHOLE, factor)
    np.testing.assert_allclose(view[0], means(made.wide["image"][1], factor), rtol=1e-6)


def test_a_window_of_a_view(made: Made) -> None:
    window = slice(256, 768), slice(64, 1300)
    view = Levels().view(layer_of(made.folder, "wide/image/0"), *window, 4)
    np.testing.assert_allclose(view[0], block_mean(made.wide["image"][0][window], 4), rtol=1e-6)


def test_integers_without_data_are_no_data(made: Made) -> None:
    none = made.wide["count"][0] == 0
    count = layer_of(made.folder, "wide/count/0").window(0, *WHOLE)
    np.testing.assert_array_equal(np.isnan(count), none)
    low = layer_of(made.folder, "wide/rejected_low/0").window(0, *WHOLE)
    # 0 rejected of some is a value, 0 of none is not.
    np.testing.assert_array_equal(np.isnan(low), none)
    np.testing.assert_array_equal(low[~none], made.wide["rejected_low"][0][~none])


@pytest.mark.parametrize("factor", [1, 2])
def test_what_tiles_share_is_read_once(made: Made, monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    read: list[tuple[slice, slice]] = []
    window = StoredLayer.window

    def counted(self: StoredLayer, plane: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        read.append((rows, columns))
        return window(self, plane, rows, columns)

    monkeypatch.setattr(StoredLayer, "window", counted)
    found, layer = Levels(), layer_of(made.folder, "wide/image/0")
    edges = slice(0, 514), slice(510, 1022), slice(1018, SHAPE[0])
    for rows in edges:
        for columns in (slice(0, 514), slice(510, SHAPE[1])):
            view = found.view(layer, rows, columns, factor)
            np.testing.assert_allclose(
                view[0], block_mean(made.wide["image"][0][rows, columns], factor), rtol=1e-6
            )
    assert sum((r.stop - r.start) * (c.stop - c.start) for r, c in read) == SHAPE[0] * SHAPE[1]
    for rows, columns in read:
        assert rows.start % layer.chunk == columns.start % layer.chunk == 0


@pytest.mark.parametrize(
    ("chunk", "factor", "side"), [(256, 1, 256), (256, 4, 512), (1000, 4, 1000), (100, 2, 800), (250, 64, 256)]
)
def test_parts_are_whole_chunks_and_whole_blocks(chunk: int, factor: int, side: int) -> None:
    assert part_side(chunk, factor) == side
    assert side % factor == 0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canvas of some 30 chunks is too large to be read before the first picture; cells are small."""
    monkeypatch.setattr(levels, "AT_ONCE", 8)
    monkeypatch.setattr(levels, "CELL", 256)


def wait_for(levels_: Levels, layer: StoredLayer) -> None:
    end = time.monotonic() + 20
    while levels_.progress(layer) < 1.0:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.usefixtures("patient")
def test_a_large_canvas_is_previewed_and_then_exact(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Levels()
    layer = layer_of(made.folder, "wide/image/0")
    read: list[int] = []
    reduced = StoredLayer.reduced

    def counted(self: StoredLayer, rows: slice, columns: slice, factor: int) -> NDArray[np.float32]:
        read.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return reduced(self, rows, columns, factor)

    monkeypatch.setattr(StoredLayer, "reduced", counted)
    monkeypatch.setattr(Levels, "_refine", lambda *_: None)
    preview = found.view(layer, *WHOLE, 8)
    exact = means(made.wide["image"][0], 8)
    assert found.progress(layer) == 0.0
    # A fraction of the pixels, and yet a picture: the sky's level is right nearly everywhere.
    assert sum(read) < 0.35 * SHAPE[0] * SHAPE[1]
    assert np.isfinite(preview[0]).mean() > 0.8
    assert abs(np.nanmedian(preview[0]) - np.nanmedian(exact)) < 3.0
    monkeypatch.undo()
    found._refine(found.base(layer), [])
    wait_for(found, layer)
    np.testing.assert_allclose(found.view(layer, *WHOLE, 8)[0], exact, rtol=1e-6)
    found.stop()


def test_where_a_tile_would_take_too_many_pixels_the_view_is_enlarged(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "AT_ONCE", 8)
    monkeypatch.setattr(levels, "CELL", 256)
    monkeypatch.setattr(levels, "BASE_BYTES", 2**16)
    monkeypatch.setattr(levels, "LARGEST_TILE", 512 * 512 * 4)
    found = Levels()
    layer = layer_of(made.folder, "wide/image/0")
    assert found.between(layer) == (2, 16)
    window = slice(8, 1016), slice(504, 1300)
    found.view(layer, *WHOLE, 16)
    wait_for(found, layer)
    base = block_mean(made.wide["image"][0], 16)
    for factor in (4, 8):
        view = found.view(layer, *window, factor)[0]
        large = base.repeat(16 // factor, axis=0).repeat(16 // factor, axis=1)
        part = large[8 // factor : 1016 // factor, 504 // factor : -(-1300 // factor)]
        np.testing.assert_allclose(view, part, rtol=1e-6)
    np.testing.assert_allclose(
        found.view(layer, *window, 2)[0], block_mean(made.wide["image"][0][window], 2), rtol=1e-6
    )
    found.stop()


def test_a_coarse_preview_is_followed_by_a_finer_one(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "AT_ONCE", 1)
    monkeypatch.setattr(levels, "_COARSE", 4)
    monkeypatch.setattr(levels, "_FINER", 2)
    monkeypatch.setattr(Levels, "_refine", lambda *_: None)
    found = Levels()
    layer = layer_of(made.folder, "wide/image/1")
    exact = means(made.wide["image"][1], 8)

    def error() -> float:
        view = found.view(layer, *WHOLE, 8)[0]
        return float(np.nanmean(np.abs(view - exact)))

    coarse, before = error(), (found.stage(layer), found.stamp(layer, 8))
    assert found.base(layer).step >= 4
    steps = sum(1 for _ in found.base(layer).sharpen())
    assert steps >= 4
    assert error() < coarse
    assert found.stage(layer) != before[0]
    assert found.stamp(layer, 8) != before[1]
    assert list(found.base(layer).sharpen()) == []


@pytest.mark.usefixtures("patient")
def test_tones_of_a_preview_are_kept_when_it_is_exact(made: Made) -> None:
    found = Levels()
    layer = layer_of(made.folder, "wide/image/0")
    before = found.sample(layer)
    found.view(layer, *WHOLE, 8)
    wait_for(found, layer)
    np.testing.assert_array_equal(found.sample(layer), before)
    # Views of the sampled chunks, not means over all of a chunk: they have the scatter of the view.
    exact = block_mean(made.wide["image"][0], 4)
    assert before.shape[1] > 5000
    np.testing.assert_array_equal(np.isin(before[np.isfinite(before)], exact), True)
    found.stop()


def test_the_pyramid_is_read_where_there_is_one(made: Made, tiles: Tiles) -> None:
    layer = layer_of(made.folder, "shown/image/rgb")
    assert set(layer.levels) == {2, 4}
    store = Store(made.folder)
    from skyloom.workflows.pyramid import open_levels

    stored = open_levels(store.open("shown"))
    for number in (1, 2):
        np.testing.assert_array_equal(tiles.levels.view(layer, *WHOLE, 2**number), stored[number][...])
    assert tiles.levels.progress(layer) == 1.0


@pytest.mark.parametrize("slow", [False, True])
def test_finished_tiles_appear(tmp_path: Path, slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if slow:
        monkeypatch.setattr(levels, "AT_ONCE", 8)
        monkeypatch.setattr(levels, "CELL", 256)
    store = Store(tmp_path / "p")
    store.create()
    arrays: dict[str, Any] = {"image": wide_arrays()["image"]}
    write_result(store, "node", arrays, canvas(), units=2)
    found = Levels()

    def view() -> NDArray[np.float32]:
        layer = layer_of(Path(str(store.project)), "node/image/0")
        assert not layer.result.complete
        found.view(layer, *WHOLE, 8)
        wait_for(found, layer)
        view: NDArray[np.float32] = found.view(layer, *WHOLE, 8)[0]
        return view

    expected = np.full(SHAPE, np.nan, np.float32)
    expected[:512, :1024] = arrays["image"][0, :512, :1024]
    np.testing.assert_allclose(view(), means(expected, 8), rtol=1e-6)
    write_result(store, "node", arrays, canvas(), units=5)
    journal = store.journal("node", "k1").path
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_text("a line more\n")
    expected[:512] = arrays["image"][0, :512]
    expected[512:1024, :1024] = arrays["image"][0, 512:1024, :1024]
    np.testing.assert_allclose(view(), means(expected, 8), rtol=1e-6)
    found.stop()


def test_a_result_that_is_made_anew_is_beside_the_old_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    arrays: dict[str, Any] = {"image": wide_arrays()["image"]}
    write_result(store, "node", arrays, canvas())
    write_result(store, "node", arrays, canvas(), units=1, key="k2")
    os.utime(str(store.root / "node" / "k2" / "zarr.json"))
    contents = Contents(store)
    assert {r.id: (r.key, r.complete) for r in contents.results().values()} == {
        "node": ("k1", True),
        "node+": ("k2", False),
    }


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (513, 40), (30_000, 29_999), (100_000, 100_000)])
def test_tiles_of_all_levels_cover_the_canvas_once(shape: tuple[int, int]) -> None:
    geometry = Geometry(shape, last_factor(shape))
    assert max(shape) <= 512 * geometry.last
    factor = geometry.last
    while factor >= 1:
        height, width = (n // factor for n in geometry.padded)
        assert height * factor == geometry.padded[0]
        rows = [geometry.window(factor, 0, r)[0] for r in range(-(-height // 512))]
        columns = [geometry.window(factor, c, 0)[1] for c in range(-(-width // 512))]
        # From the top down, without gaps, with a pixel of the neighbours; columns from the left.
        assert rows[0].stop == height
        assert rows[-1].start == 0
        assert all(a.start == b.stop - 2 for a, b in pairwise(rows))
        assert columns[0].start == 0
        assert columns[-1].stop == width
        assert all(a.stop == b.start + 2 for a, b in pairwise(columns))
        factor //= 2
