"""Tiles: the store's pixels through the stretch, the right way up, nothing where there are no data."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skyloom.ops.errors import ConfigError
from skyloom.workflows.report.pictures import palette
from skyloom.workflows.viewer.contents import Contents
from skyloom.workflows.viewer.levels import TILE
from skyloom.workflows.viewer.look import Look, picture, png, shades, tones_of
from skyloom.workflows.viewer.tiles import Tiles

from .conftest import SHAPE, Made


def shown(tiles: Tiles, name: str, look: Look, *, factor: int = 1, like: str = "") -> NDArray[np.uint8]:
    """All tiles of a view put together, the top row first, as RGBA."""
    layer = tiles.layer(name)
    geometry = tiles.geometry(layer)
    height, width = (n // factor for n in geometry.padded)
    out = np.zeros((height, width, 4), np.uint8)
    for row in range(-(-height // TILE)):
        for column in range(-(-width // TILE)):
            other = tiles.layer(like) if like else None
            data = tiles.png(layer, factor, column, row, look, like=other)
            tile = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
            # A pixel of each neighbour comes with it: it must be the same as theirs.
            top, left = row * TILE - (row > 0), column * TILE - (column > 0)
            before = out[top : top + 2, left : left + tile.shape[1] - 1] if row else tile[:2, :-1]
            np.testing.assert_array_equal(tile[:2, :-1], before)
            out[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return out


def on_canvas(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of the canvas alone, the first row at the bottom."""
    return picture[::-1][: SHAPE[0], : SHAPE[1]]


def mtf(x: NDArray[np.float64], m: float) -> NDArray[np.float64]:
    return np.asarray((m - 1) * x / ((2 * m - 1) * x - m))


def test_a_tile_is_the_store_through_the_stretch(made: Made, tiles: Tiles) -> None:
    image = made.wide["image"][0].astype(np.float64)
    # PixInsight's STF of the view that holds the whole canvas, written out once more.
    from skyloom.ops.pyramid import block_mean

    small = block_mean(block_mean(made.wide["image"][0], 2), 1).astype(np.float64)
    good = small[np.isfinite(small)]
    median = np.median(good)
    black = max(median - 2.8 * 1.4826 * np.median(np.abs(good - median)), good.min())
    white = np.quantile(good, 0.9999)
    r = (median - black) / (white - black)
    m = (0.25 - 1) * r / ((2 * 0.25 - 1) * r - 0.25)
    expected = 255 * mtf(np.clip((image - black) / (white - black), 0, 1), m)
    found = on_canvas(shown(tiles, "wide/image/0", Look()))
    there = np.isfinite(image)
    # The tones are measured on a part of the view's pixels.
    assert np.abs(found[there][:, 0] - expected[there]).max() <= 4
    assert np.abs(found[there][:, 0] - expected[there]).mean() < 1.5
    assert (found[there][:, 0] == found[there][:, 2]).all()


def test_no_data_is_transparent_and_never_black(made: Made, tiles: Tiles) -> None:
    there = np.isfinite(made.wide["image"][0])
    for name, look in [("wide/image/0", Look()), ("wide/count/0", Look("linear", colours="viridis"))]:
        picture = shown(tiles, name, look)
        np.testing.assert_array_equal(on_canvas(picture)[..., 3] == 255, there)
        # What fills the canvas up to whole tiles as well.
        assert (picture[::-1][SHAPE[0] :, :, 3] == 0).all()
        assert (picture[:, SHAPE[1] :, 3] == 0).all()


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("colours", ["grey", "viridis"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_png_is_its_picture(planes: int, colours: Literal["grey", "viridis"], empty: bool) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.normal(0.5, 0.3, (planes, 37, 53)).astype(np.float32)
    if empty:
        pixels[0, 5:9, 3:30] = np.nan
    look = Look("linear", colours=colours)
    shown = picture(pixels, look, tones_of(pixels.reshape(planes, -1), look))
    image = Image.open(io.BytesIO(png(shown)))
    # Transparent only where it must be: browsers draw what is not more quickly.
    assert ("A" in image.mode) == empty
    colour = shown if shown.shape[-1] == 4 else shown[..., [0, 0, 0, 1]]
    np.testing.assert_array_equal(np.asarray(image.convert("RGBA")), colour[::-1])


@pytest.mark.parametrize("method", ["stf", "asinh", "linear"])
@pytest.mark.parametrize("saturation", [1.0, 1.4])
def test_colours_are_rounded_shades(method: str, saturation: float) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.normal([[[100.0]], [[110.0]], [[130.0]]], 9.0, (3, 90, 40)).astype(np.float32)
    look = Look(method, saturation=saturation)
    tones = tones_of(pixels.reshape(3, -1), look)
    expected = np.rint(255 * shades(pixels, look, tones))
    np.testing.assert_array_equal(np.moveaxis(picture(pixels, look, tones)[..., :3], -1, 0), expected)


def test_shades_of_a_single_plane_are_those_of_the_table() -> None:
    pixels = np.linspace(-0.1, 1.1, 400, dtype=np.float32).reshape(1, 20, 20)
    found = picture(pixels, look := Look("none", colours="viridis"), tones_of(pixels[:, 0], look))
    table = np.array(palette()).reshape(-1, 3)
    expected = table[np.rint((len(table) - 1) * np.clip(pixels[0].astype(np.float64), 0, 1)).astype(int)]
    np.testing.assert_array_equal(found[..., :3], expected)


def test_a_finished_picture_is_shown_as_it_is(made: Made, tiles: Tiles) -> None:
    found = on_canvas(shown(tiles, "shown/image/rgb", Look("none")))
    there = np.isfinite(made.picture[0])
    expected = np.rint(255 * np.moveaxis(made.picture.astype(np.float64), 0, -1)[there])
    np.testing.assert_array_equal(found[there][:, :3], expected)
    np.testing.assert_array_equal(found[..., 3] == 255, there)


def test_linear_runs_from_black_to_white(made: Made, tiles: Tiles) -> None:
    look = Look("linear", low=0.01, white=0.99)
    tones = tiles.tones(tiles.layer("wide/image/0"), look)
    found = on_canvas(shown(tiles, "wide/image/0", look))
    image = made.wide["image"][0].astype(np.float64)
    there = np.isfinite(image)
    expected = np.clip((image - tones.black[0]) / (tones.white[0] - tones.black[0]), 0, 1)[there]
    np.testing.assert_array_equal(found[there][:, 0], np.rint(255 * expected))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_all_levels_lie_on_each_other(made: Made, tiles: Tiles, factor: int) -> None:
    """A mark is at the same place of the padded canvas at all levels, counted from the top."""
    picture = shown(tiles, "wide/count/0", Look("linear", colours="viridis"), factor=factor)
    empty = np.argwhere((picture[..., 3] == 0)[:, : SHAPE[1] // factor].all(axis=1)).ravel()
    height = tiles.geometry(tiles.layer("wide/count/0")).padded[0]
    expected = sorted((height - 1 - y) // factor for y in range(700, 704, factor))
    inside = empty[empty >= (height - SHAPE[0]) // factor + 1]
    np.testing.assert_array_equal(inside, sorted(set(expected)))


def test_linked_colours_have_one_stretch() -> None:
    rng = np.random.default_rng(1)
    sample = rng.normal([[100.0], [200.0], [300.0]], 5.0, (3, 5000)).astype(np.float32)
    linked, each = tones_of(sample, Look()), tones_of(sample, Look(linked=False))
    assert len(set(linked.black)) == len(set(linked.white)) == len(set(linked.midtones)) == 1
    assert each.black[0] < each.black[1] < each.black[2]
    for method in ("asinh", "linear"):
        assert len(set(tones_of(sample, Look(method)).white)) == 1


def test_the_stretch_of_another_layer(tiles: Tiles) -> None:
    own = shown(tiles, "wide/image/1", Look())
    of_other = shown(tiles, "wide/image/1", Look(), like="wide/image/0")
    # 300 adu brighter than the other.
    there = own[..., 3] == 255
    assert np.median(of_other[there][:, 0]) > np.median(own[there][:, 0]) + 30
    np.testing.assert_array_equal(own, shown(tiles, "wide/image/1", Look(), like="wide/image/1"))


def test_nothing_at_all_can_be_shown() -> None:
    tones = tones_of(np.full((1, 50), np.nan, np.float32), Look())
    assert (tones.black[0], tones.white[0]) == (0.0, 1.0)
    alike = tones_of(np.full((1, 50), 7.0, np.float32), Look("linear"))
    assert alike.black[0] < 7.0 < alike.white[0]


@pytest.mark.parametrize(
    "name",
    ["wide", "wide/image", "wide/image/2", "wide/image/rgb", "wide/image/-1", "wide/nothing/0", "no/image/0",
     "@/x", "../../etc/0", "wide/../0", "wide/image/0/0", "wide/image/٣"],
)  # fmt: skip
def test_layers_that_are_not_there(tiles: Tiles, name: str) -> None:
    with pytest.raises(ConfigError):
        tiles.layer(name)


@pytest.mark.parametrize("place", [(3, 0, 0), (8, 0, 0), (1, 3, 0), (1, 0, 9), (1, -1, 0), (0, 0, 0), (-1, 0, 0)])
def test_tiles_that_are_not_there(tiles: Tiles, place: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="no tile"):
        tiles.png(tiles.layer("wide/image/0"), *place, Look())


@pytest.mark.parametrize(
    "query", [{"method": "rainbow"}, {"white": "2"}, {"shadows": "nan"}, {"low": "x"}, {"colours": "red"}]
)
def test_looks_that_cannot_be(query: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(query))):
        Look.of(query)


def test_memory_for_tiles_is_bounded(tiles: Tiles) -> None:
    tiles._pixels.budget = 3 * 2**20
    shown(tiles, "wide/image/0", Look())
    shown(tiles, "wide/image/1", Look())
    assert 0 < tiles._pixels.total <= 3 * 2**20


def test_what_is_offered_first(made: Made, tiles: Tiles) -> None:
    contents: Contents = tiles.contents
    assert contents.default() is not None
    # The finished picture, though `half` began later.
    assert contents.default().id == "shown"  # type: ignore[union-attr]
    assert {"integrate", "wide", "cut", "half", "shown"} <= set(contents.results())
    assert not contents.result("half").complete
