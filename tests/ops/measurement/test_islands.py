"""What is cut out of a frame: smoothed, it shows the same pixels above the level with the same values."""

import numpy as np
import pytest
import sep
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from skyloom.ops.measurement.detection import KERNEL
from skyloom.ops.measurement.islands import SEA, Islands, cut_islands

Labels = NDArray[np.intp]


def smooth(image: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(ndimage.correlate(image.astype(np.float64), KERNEL.astype(np.float64), mode="constant"))


def label(above: NDArray[np.bool_]) -> Labels:
    return np.asarray(ndimage.label(above, np.ones((3, 3)))[0])


def pixels(values: NDArray[np.float64], labels: Labels, smallest: int) -> list[list[tuple[int, int, float]]]:
    """Column, row and value of the pixels of every island, sorted."""
    found = []
    for part in range(1, labels.max(initial=0) + 1):
        rows, columns = np.nonzero(labels == part)
        if rows.size >= smallest:
            values_here = values[rows, columns]
            found.append(sorted(zip(columns.tolist(), rows.tolist(), values_here.tolist(), strict=True)))
    return sorted(found)


def seen_in(islands: Islands, *, level: float, smallest: int) -> list[list[tuple[int, int, float]]]:
    values = smooth(islands.picture)
    labels = label(values > level)
    found = []
    for part in pixels(values, labels, smallest):
        columns, rows, heights = (np.array(v) for v in zip(*part, strict=True))
        dx, dy = islands.shift(columns, rows)
        assert np.ptp(dx) == 0
        assert np.ptp(dy) == 0
        found.append(sorted(zip((columns + dx).tolist(), (rows + dy).tolist(), heights.tolist(), strict=True)))
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    level=st.floats(0.8, 3.0),
    smallest=st.integers(1, 6),
    gaps=st.booleans(),
)
def test_what_is_above_the_level_is_all_there(
    seed: int, shape: tuple[int, int], level: float, smallest: int, gaps: bool
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, shape).astype(np.float32)
    image[rng.random(shape) < 0.01] += 40
    if gaps:
        image[rng.random(shape) < 0.1] = 0
    islands = cut_islands(image, level=level, smallest=smallest)
    assume(islands is not None)
    assert islands is not None
    values = smooth(image)
    # A pixel at the level itself may fall on either side.
    assume(np.abs(values - level).min() >= 1e-4 * level)
    assert islands.picture.size <= image.size
    want = pixels(values, label(values > level), smallest)
    found = seen_in(islands, level=level, smallest=smallest)
    assert [[p[:2] for p in part] for part in found] == [[p[:2] for p in part] for part in want]
    for one, other in zip(found, want, strict=True):
        np.testing.assert_allclose([p[2] for p in one], [p[2] for p in other], rtol=1e-6, atol=1e-6)


def test_islands_at_the_edges_and_one_inside_another() -> None:
    image = np.zeros((200, 240), np.float32)
    image[0, 0] = image[-1, -1] = image[0, 100] = image[90, -1] = 50
    image[50:90, 50:90] = 20
    image[54:86, 54:86] = 0
    image[70, 70] = 30
    islands = cut_islands(image, level=1.0, smallest=1)
    assert islands is not None
    values = smooth(image)
    want = pixels(values, label(values > 1.0), 1)
    assert len(want) == 6
    assert seen_in(islands, level=1.0, smallest=1) == want
    assert (islands.picture == SEA).mean() > 0.2


def test_nothing_bright_and_all_bright() -> None:
    dark = cut_islands(np.zeros((50, 60), np.float32), level=1.0, smallest=5)
    assert dark is not None
    assert (dark.picture == SEA).all()
    assert cut_islands(np.full((50, 60), 9, np.float32), level=1.0, smallest=5) is None
    checkered = np.zeros((64, 64), np.float32)
    checkered[::2, ::3] = 99
    assert cut_islands(checkered, level=8.0, smallest=1) is None


def test_sources_are_those_of_the_whole_frame() -> None:
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:700, :800]
    image = rng.normal(0, 1, x.shape)
    places = rng.uniform(0, 1, (150, 2)) * (799, 699)
    for (px, py), height in zip(places, rng.exponential(60, len(places)) + 8, strict=True):
        near = slice(max(int(py) - 12, 0), int(py) + 13), slice(max(int(px) - 12, 0), int(px) + 13)
        image[near] += height * np.exp(-((x[near] - px) ** 2 + (y[near] - py) ** 2) / (2 * 1.4**2))
    frame = image.astype(np.float32)
    options = {"minarea": 5, "filter_kernel": KERNEL, "clean": False, "deblend_nthresh": 16, "deblend_cont": 0.005}
    sep.set_extract_pixstack(frame.size)
    whole = sep.extract(frame, 2.0, **options)
    islands = cut_islands(frame, level=2.0, smallest=5)
    assert islands is not None
    assert islands.picture.size < 0.2 * frame.size
    cut = sep.extract(islands.picture, 2.0, **options)
    dx, dy = islands.shift(cut["xpeak"], cut["ypeak"])
    order, other = np.lexsort((whole["xpeak"], whole["ypeak"])), np.lexsort((cut["xpeak"] + dx, cut["ypeak"] + dy))
    np.testing.assert_array_equal((cut["xpeak"] + dx)[other], whole["xpeak"][order])
    np.testing.assert_array_equal((cut["ypeak"] + dy)[other], whole["ypeak"][order])
    # sep deals pixels between blended sources out by chance.
    alone = (whole["flag"][order] & 1) == 0
    assert alone.mean() > 0.8
    for name in ("npix", "tnpix", "flux", "cflux", "peak", "cpeak", "a", "b"):
        np.testing.assert_array_equal(cut[name][other][alone], whole[name][order][alone], err_msg=name)
    np.testing.assert_allclose((cut["x"] + dx)[other][alone], whole["x"][order][alone], atol=1e-9)
    np.testing.assert_allclose((cut["y"] + dy)[other][alone], whole["y"][order][alone], atol=1e-9)


@pytest.mark.parametrize("smallest", [5, 30])
def test_small_islands_are_left_out(smallest: int) -> None:
    image = np.zeros((100, 100), np.float32)
    image[20, 20] = 16.0
    image[60:63, 60:63] = 16.0
    islands = cut_islands(image, level=0.5, smallest=smallest)
    assert islands is not None
    found = seen_in(islands, level=0.5, smallest=1)
    assert [len(p) for p in found] == ([9, 25] if smallest == 5 else [])
