"""Drops on the canvas against a naive twin that clips polygons, and against STScI's drizzle."""

from __future__ import annotations

import numpy as np
import pytest
from drizzle.resample import Drizzle
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.integration.drop import ALONE, GOT, KERNELS, WENT_HIGH, WENT_LOW, correlation, drop, overlaps

Floats = NDArray[np.float64]
STEP = 32.0
NO_FATES = np.empty((0, 0), dtype=np.uint8)
NO_HITS = np.empty((0, 0), dtype=np.bool_)


def clipped_area(polygon: Floats, left: float, bottom: float) -> float:
    """Area of a convex polygon inside a unit square, cut side by side (Sutherland-Hodgman)."""
    points = [tuple(p) for p in polygon]
    for axis, bound, sign in ((0, left, 1), (0, left + 1, -1), (1, bottom, 1), (1, bottom + 1, -1)):
        kept: list[tuple[float, ...]] = []
        for a, b in zip([points[-1], *points[:-1]] if points else [], points, strict=True):
            in_a, in_b = sign * (a[axis] - bound) >= 0, sign * (b[axis] - bound) >= 0
            if in_a != in_b:
                t = (bound - a[axis]) / (b[axis] - a[axis])
                kept.append(tuple(p + t * (q - p) for p, q in zip(a, b, strict=True)))
            if in_b:
                kept.append(b)
        points = kept
    if len(points) < 3:
        return 0.0
    x, y = np.array(points).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


class Mapping:
    """A frame whose cells of 32 pixels lie on the canvas as bilinear maps of their corners."""

    def __init__(self, matrix: Floats, start: Floats, *, bend: float = 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0:3, 0:3] * STEP - 0.5
        place = np.stack([matrix @ (i, j) + start for i, j in zip(x.ravel(), y.ravel(), strict=True)], axis=-1)
        place += rng.uniform(-bend, bend, place.shape)
        a, b = rng.uniform(0.8, 1.2, 9), rng.uniform(-5, 5, 9)
        self.fields = np.ascontiguousarray(np.stack([*place, a, b, np.ones_like(a)]).reshape(5, 3, 3))

    def at(self, x: float, y: float) -> Floats:
        """Position, a and b at a place of the frame, inside of the first cell or the next."""
        kx, ky = int((x + 0.5) // STEP), int((y + 0.5) // STEP)
        s, t = (x + 0.5) / STEP - kx, (y + 0.5) / STEP - ky
        f = self.fields[:4, ky : ky + 2, kx : kx + 2]
        return np.asarray(
            (1 - t) * ((1 - s) * f[:, 0, 0] + s * f[:, 0, 1]) + t * ((1 - s) * f[:, 1, 0] + s * f[:, 1, 1])
        )

    def outline(self, x: float, y: float, side: float) -> Floats:
        h = 0.5 * side
        # A pixel's corners belong to its own cell.
        return np.array([self.at(x + i, y + j)[:2] for i, j in ((-h, -h), (h, -h), (h, h), (-h, h))])


def shoelace(polygon: Floats) -> float:
    x, y = polygon.T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-0.4, 0.4), min_size=8, max_size=8),
    st.floats(0.05, 4.0), st.floats(0, 6.3), st.booleans(),
)  # fmt: skip
def test_overlaps_are_those_of_clipped_polygons(
    bends: list[float], side: float, turn: float, mirror: bool
) -> None:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + np.array(bends).reshape(4, 2)
    c, s = np.cos(turn), np.sin(turn)
    polygon = 0.5 * side * corners @ np.array([[c, s], [-s, c]]) + 4.5
    if mirror:
        polygon = polygon[::-1]
    areas = np.empty((9, 9))
    overlaps(np.ascontiguousarray(polygon[:, 0]), np.ascontiguousarray(polygon[:, 1]), areas, 0.0, 0.0)
    sign = -1.0 if mirror else 1.0
    expected = [
        [sign * clipped_area(polygon[::-1] if mirror else polygon, x, y) for x in range(9)] for y in range(9)
    ]
    np.testing.assert_allclose(areas, expected, atol=1e-12)
    assert areas.sum() == pytest.approx(shoelace(polygon), abs=1e-12)


def dropped(
    frame: NDArray[np.float32], mapping: Mapping, shape: tuple[int, int], *, kernel: str = "square",
    pixfrac: float = 0.8, offset: tuple[float, float] = (0.0, 0.0), size: float = 1.0, share: float = 1.0,
    crpix: tuple[float, float] = (0.5, -3.0), corner: tuple[int, int] = (0, 0),
    fates: NDArray[np.uint8] = NO_FATES, hits: NDArray[np.bool_] = NO_HITS, taper: float = 1e-3,
    weight: float = 1.7, noise: float = 2.5, start: tuple[int, int] = (0, 0), whole: tuple[int, int] | None = None,
) -> tuple[Floats, NDArray[np.uint8]]:  # fmt: skip
    sums, marks = np.zeros((*shape, 3)), np.zeros(shape, dtype=np.uint8)
    height, width = whole or frame.shape
    drop(
        frame, *start, height, width, mapping.fields, 0, 0, *offset, pixfrac * size, share, KERNELS[kernel],
        *corner, *crpix, fates, 0, 0, 2, hits, taper, weight, noise, sums, marks,
    )  # fmt: skip
    return sums, marks


def naive(
    frame: NDArray[np.float32], mapping: Mapping, shape: tuple[int, int], *, kernel: str = "square",
    pixfrac: float = 0.8, offset: tuple[float, float] = (0.0, 0.0), size: float = 1.0, share: float = 1.0,
    crpix: tuple[float, float] = (0.5, -3.0), weight: float = 1.7, noise: float = 2.5,
) -> Floats:  # fmt: skip
    """Sums over the drops of a frame, pixel by pixel."""
    sums = np.zeros((*shape, 3))
    for (y, x), d in np.ndenumerate(frame):
        if np.isnan(d):
            continue
        area = abs(shoelace(mapping.outline(x + offset[1], y + offset[0], 0.1))) / 0.01
        cx, cy, a, b = mapping.at(x + offset[1], y + offset[0])
        value, sigma = a * (d - b) / area, a * noise / area
        side = size * pixfrac
        if kernel == "square":
            polygon = mapping.outline(x + offset[1], y + offset[0], side)
        else:
            h = 0.5 * side * np.sqrt(area)
            polygon = np.array([[cx - h, cy - h], [cx + h, cy - h], [cx + h, cy + h], [cx - h, cy + h]])
        for r in range(shape[0]):
            for c in range(shape[1]):
                px, py = c - crpix[1] - 0.5, r - crpix[0] - 0.5
                if kernel == "point":
                    inside = px <= cx < px + 1 and py <= cy < py + 1
                    w = weight * share * area * inside
                else:
                    if shoelace(polygon) < 0:
                        polygon = polygon[::-1]
                    w = weight * share * clipped_area(polygon, px, py) / side**2
                sums[r, c] += (w, w * value, (w * sigma) ** 2)
    return sums


TURNED = np.array([[1.6, -0.7], [0.8, 1.5]])


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("matrix", [TURNED, TURNED * [[1], [-1]], np.diag([0.6, 0.45]), np.diag([3.2, 2.9])])
@pytest.mark.parametrize(
    "drops", [{}, {"pixfrac": 1.0}, {"offset": (0.25, -0.25), "size": 0.5, "share": 0.5, "pixfrac": 0.9}]
)
def test_sums_are_those_of_the_naive_twin(kernel: str, matrix: Floats, drops: dict[str, float]) -> None:
    rng = np.random.default_rng(3)
    frame = rng.normal(100, 10, (6, 7)).astype(np.float32)
    frame[2, 3] = np.nan
    mapping = Mapping(matrix, np.array([6.3, 5.2]), bend=1.0)
    shape = (17, 19)
    sums, marks = dropped(frame, mapping, shape, kernel=kernel, **drops)  # type: ignore[arg-type]
    expected = naive(frame, mapping, shape, kernel=kernel, **drops)  # type: ignore[arg-type]
    np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=1e-7 * expected.max())
    np.testing.assert_array_equal(marks == GOT, expected[..., 0] > 1e-8)


def test_windows_do_not_show() -> None:
    rng = np.random.default_rng(4)
    frame = rng.normal(100, 10, (64, 64)).astype(np.float32)
    mapping = Mapping(np.array([[1.9, 0.2], [-0.2, 1.9]]), np.array([3.0, 15.0]), bend=0.5)
    for kernel in KERNELS:
        whole, marks = dropped(frame, mapping, (140, 150), kernel=kernel, taper=9.0)
        part, part_marks = dropped(
            np.ascontiguousarray(frame[10:60, 5:64]), mapping, (40, 50), kernel=kernel, taper=9.0,
            corner=(50, 60), start=(10, 5), whole=frame.shape,
        )  # fmt: skip
        np.testing.assert_array_equal(part, whole[50:90, 60:110])
        np.testing.assert_array_equal(part_marks, marks[50:90, 60:110])


def test_rejected_pixels_leave_marks_only() -> None:
    frame = np.full((8, 8), 10.0, dtype=np.float32)
    mapping = Mapping(np.diag([2.0, 2.0]), np.array([0.5, 0.5]))
    fates = np.ones((8, 8), dtype=np.uint8)
    fates[2, 3], fates[2, 5], fates[5, 1], fates[6, 6] = 2, 3, 0, ALONE
    hits = np.zeros((8, 8), dtype=np.bool_)
    hits[6, 6] = hits[1, 1] = True
    sums, marks = dropped(frame, mapping, (16, 16), crpix=(0.0, 0.0), fates=fates, hits=hits, pixfrac=0.5)
    seen = {GOT: np.ones((8, 8), dtype=bool), WENT_LOW: fates == 2, WENT_HIGH: (fates == 3) | (fates == ALONE)}
    seen[GOT] = fates == 1
    for bit, where in seen.items():
        np.testing.assert_array_equal((marks & bit) != 0, np.kron(where, np.ones((2, 2))) != 0)
    np.testing.assert_array_equal(sums[..., 0] > 0, np.kron(fates == 1, np.ones((2, 2))) != 0)


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("pixfrac", [0.6, 1.0])
def test_the_image_is_that_of_the_drizzle_library(kernel: str, pixfrac: float) -> None:
    rng = np.random.default_rng(5)
    shape, size = (124, 130), 60
    matrix = 2.0 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    library = Drizzle(kernel=kernel, out_shape=shape, disable_ctx=True)
    sums = np.zeros((*shape, 3))
    for k in range(3):
        frame = rng.normal(100, 10, (size, size)).astype(np.float32)
        mapping = Mapping(matrix, np.array([38.0, 2.0]) + rng.uniform(-1, 1, 2))
        mapping.fields[2:4] = np.array([[[1.0]], [[0.0]]])
        pixmap = np.array([[mapping.at(x, y)[:2] for x in range(size)] for y in range(size)])
        weight = 1.0 + k
        # In their units the area of an input pixel is 1.
        library.add_image(
            frame, 1.0, pixmap, pixfrac=pixfrac, weight_map=np.full(frame.shape, weight, dtype=np.float32),
            iscale=0.25, pixel_scale_ratio=0.5,
        )  # fmt: skip
        sums += dropped(frame, mapping, shape, kernel=kernel, pixfrac=pixfrac, weight=weight, crpix=(0.0, 0.0))[0]
    theirs = library.out_wht.astype(np.float64)
    # The library leaves out drops that reach across the canvas' last row or column.
    theirs[-3:] = theirs[:, -3:] = 0.0
    seen = theirs > 0.01
    assert seen.sum() > 5000
    with np.errstate(invalid="ignore"):
        image = sums[..., 1] / sums[..., 0]
    # Weights of theirs sum to 1 a drop, ours to the canvas pixels that it stands for: 4.
    np.testing.assert_allclose(sums[..., 0][seen], 4.0 * theirs[seen], rtol=1e-4)
    np.testing.assert_allclose(image[seen], library.out_img[seen], rtol=1e-4)


@pytest.mark.parametrize(("kernel", "side"), [("square", 2.0), ("square", 0.7), ("point", 2.0)])
def test_correlation_is_that_of_many_drops(kernel: str, side: float) -> None:
    # One pixel among drops that lie evenly: Σa over drops is 1 / area a drop, noise² Σa².
    t = (np.arange(4000) + 0.5) / 4000 * 8 - 4
    along = np.clip(np.minimum(t + side / 2, 0.5) - np.maximum(t - side / 2, -0.5), 0, None)
    if kernel == "point":
        along = np.where(np.abs(t) < 0.5, 1.0, 0.0)
    a = along / along.sum()
    # Independent drops, each spread over the pixels by a: the sum's variance is that of the drops.
    pixel, area = np.sum(a**2), 1.0 / (4000 / 8)
    assert correlation(kernel, side) ** 2 == pytest.approx((area / pixel) ** 2, rel=1e-3)
