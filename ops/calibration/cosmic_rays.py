"""Cosmic rays on single frames: Laplacian edge detection (van Dokkum 2001), a block at a time.

Only pixels sharper than the noise allows are looked at closely, so that a frame costs little more than being read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.frames import decoded
from skyloom.ops.robust import select

BLOCK = 512
"""Side of the blocks a frame is searched in (px); they lie where they lie, whatever window is asked for."""
HALO = 24
"""Pixels around a block that are searched with it: four rounds of the filters' reach."""
_ROUNDS = 4
_GROWTH = 0.3
"""Next to a hit this part of the threshold is enough."""
_SMOOTH = 0.01
"""Least fine structure (σ)."""

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CosmicRays:
    """What counts as a cosmic ray."""

    threshold: float = 5.0
    """Least excess over the surroundings (σ)."""
    contrast: float = 5.0
    """Least ratio of the excess to what is left of the pixel's structure after a median: stars have less."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any] | None) -> CosmicRays | None:
        """Rebuild from the fields of a spec."""
        return None if fields is None else cls(float(fields["threshold"]), float(fields["contrast"]))

    def fields(self) -> dict[str, Any]:
        """Return what `from_fields` takes."""
        return asdict(self)


def find_cosmic_rays(
    image: Pixels,
    saturated: Mask,
    response: Pixels,
    *,
    settings: CosmicRays,
    gain: float,
    read_noise: float,
    mosaic: bool = False,
) -> Mask:
    """Find pixels hit by cosmic rays in one exposure.

    Parameters
    ----------
    image
        (rows, columns), DN above zero light, the sky still in it; NaN = no data. Saturated pixels as they are.
    saturated
        (rows, columns): these, and two pixels around them, are never hits.
    response
        1 / F of the pixels (NaN = no data), or 1: the noise grows with it.
    settings
        Threshold and contrast.
    gain
        e-/DN; NaN: taken from the image as if its scatter were photon noise of its sky.
    read_noise
        e-.
    mosaic
        The pixels see colours in turn, 2 × 2. A hit must then stand out twice: among the pixels of its own colour,
        where a star looks half as wide, and among all pixels brought to one sky level, where a coloured star is
        a chequerboard. Hardly anything but a hit does both.

    Returns
    -------
    numpy.ndarray
        bool (rows, columns).

    Notes
    -----
    van Dokkum 2001, PASP 113, 1420 (L.A.Cosmic): with L⁺ the clipped Laplacian of the twice subsampled image, N
    the noise by the 5 × 5 median, S = L⁺ / 2N, a hit has S' = S − med₅(S) > threshold and S' N > contrast ·
    (med₃ − med₇(med₃)). Neighbours of hits need S' > threshold, theirs 0.3 of it. Hits are replaced by the median
    around them and the search is repeated, 4 times at most. The cores of stars survive from a FWHM of 1.5 pixels
    on (2.2 in a mosaic); narrower ones are as sharp as hits and want more contrast.
    """
    noise = _noise(image, gain, read_noise)
    scale = np.nan_to_num(response, nan=1.0).astype(np.float32)
    if not mosaic:
        return _found(image, saturated, scale, noise, settings)
    single = np.zeros(image.shape, np.bool_)
    level = image.copy()
    phases = [(slice(r, None, 2), slice(c, None, 2)) for r in range(2) for c in range(2)]
    skies = [_median(image[phase]) for phase in phases]
    for phase, sky in zip(phases, skies, strict=True):
        plane, its_scale = np.ascontiguousarray(image[phase]), np.ascontiguousarray(scale[phase])
        single[phase] = _found(plane, np.ascontiguousarray(saturated[phase]), its_scale, noise, settings)
        level[phase] += np.float32(float(np.mean(skies)) - sky)
    return single & _found(level, saturated, scale, noise, settings)


def _median(pixels: Pixels) -> float:
    good = pixels[np.isfinite(pixels)]
    return float(np.median(good)) if good.size else 0.0


def _found(
    image: Pixels, saturated: Mask, scale: Pixels, noise: tuple[float, float], settings: CosmicRays
) -> Mask:
    work, excluded = _filled(image, saturated)
    found = np.zeros(image.shape, np.bool_)
    for _ in range(_ROUNDS):
        sharp, low = laplacian(work), lowest(work)
        if not _search(
            work, sharp, low, scale, excluded, found, *noise, settings.threshold, settings.contrast
        ):  # fmt: skip
            break
    return found


def _noise(image: Pixels, gain: float, read_noise: float) -> tuple[float, float]:
    """DN² a DN of light has, and DN² without light."""
    if gain > 0:
        return 1.0 / gain, (read_noise / gain) ** 2
    steps = image[:, 2:] - image[:, :-2]
    steps = steps[np.isfinite(steps)]
    if not steps.size:
        return 0.0, 1.0
    variance = max((1.4826 * float(np.median(np.abs(steps)))) ** 2 / 2.0, 1e-12)
    level = _median(image)
    return (variance / level, 0.0) if level > math.sqrt(variance) else (0.0, variance)


@njit(nogil=True, cache=True, fastmath=False)
def _filled(image: Pixels, saturated: Mask) -> tuple[Pixels, Mask]:
    """Image whose gaps hold the median around them, and the pixels that cannot be hits."""
    rows, columns = image.shape
    work, excluded = image.copy(), np.zeros(image.shape, np.bool_)
    values = np.empty(81, np.float32)
    for y in range(rows):
        for x in range(columns):
            if np.isnan(image[y, x]):
                excluded[y, x] = True
                count = 0
                for r in range(max(y - 4, 0), min(y + 5, rows)):
                    for c in range(max(x - 4, 0), min(x + 5, columns)):
                        if not np.isnan(image[r, c]):
                            values[count] = image[r, c]
                            count += 1
                work[y, x] = select(values, count, count // 2) if count else 0.0
            if saturated[y, x]:
                excluded[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
    return work, excluded


@njit(nogil=True, cache=True, fastmath=False)
def laplacian(work: Pixels) -> Pixels:
    """Half the clipped Laplacian of the twice subsampled image, averaged back: A for a single pixel A above 0."""
    rows, columns = work.shape
    out = np.empty(work.shape, np.float32)
    zero, eighth = np.float32(0.0), np.float32(0.125)
    for y in range(rows):
        up, here, down = work[max(y - 1, 0)], work[y], work[min(y + 1, rows - 1)]
        line = out[y]
        for x in range(1, columns - 1):
            twice = here[x] + here[x]
            left, right = twice - here[x - 1], twice - here[x + 1]
            line[x] = eighth * (
                max(left - up[x], zero)
                + max(left - down[x], zero)
                + max(right - up[x], zero)
                + max(right - down[x], zero)
            )
        for x in (0, columns - 1):
            twice = here[x] + here[x]
            left, right = twice - here[max(x - 1, 0)], twice - here[min(x + 1, columns - 1)]
            line[x] = eighth * (
                max(left - up[x], zero)
                + max(left - down[x], zero)
                + max(right - up[x], zero)
                + max(right - down[x], zero)
            )
    return out


@njit(nogil=True, cache=True, fastmath=False)
def lowest(work: Pixels) -> Pixels:
    """Least value of 5 × 5 pixels: no median of them is lower."""
    rows, columns = work.shape
    across, out = np.empty(work.shape, np.float32), np.empty(work.shape, np.float32)
    for y in range(rows):
        here, line = work[y], across[y]
        for x in range(columns):
            line[x] = here[x]
        for step in (1, 2):
            for x in range(columns - step):
                line[x] = min(line[x], here[x + step])
            for x in range(step, columns):
                line[x] = min(line[x], here[x - step])
    for y in range(rows):
        line = out[y]
        line[:] = across[y]
        for r in range(max(y - 2, 0), min(y + 3, rows)):
            other = across[r]
            for x in range(columns):
                line[x] = min(line[x], other[x])
    return out


@njit(nogil=True, cache=True, fastmath=False)
def median_near(image: Pixels, y: int, x: int, reach: int, values: Pixels) -> float:
    """Median of the square of (2 reach + 1)² pixels, as far as it lies in the image."""
    count = 0
    for r in range(max(y - reach, 0), min(y + reach + 1, image.shape[0])):
        for c in range(max(x - reach, 0), min(x + reach + 1, image.shape[1])):
            values[count] = image[r, c]
            count += 1
    return select(values, count, count // 2)


@njit(nogil=True, cache=True, fastmath=False)
def _sigma(work: Pixels, scale: Pixels, y: int, x: int, photon: float, read: float, values: Pixels) -> float:
    level = max(median_near(work, y, x, 2, values), 0.0)
    return math.sqrt(max(scale[y, x] * (photon * level + read * scale[y, x]), 1e-12))


@njit(nogil=True, cache=True, fastmath=False)
def _excess(
    work: Pixels, sharp: Pixels, scale: Pixels, y: int, x: int, photon: float, read: float, values: Pixels
) -> tuple[float, float]:
    """S' of a pixel, and its σ."""
    sigma = _sigma(work, scale, y, x, photon, read, values)
    around = np.empty(25, np.float32)
    count = 0
    for r in range(max(y - 2, 0), min(y + 3, work.shape[0])):
        for c in range(max(x - 2, 0), min(x + 3, work.shape[1])):
            around[count] = sharp[r, c] / _sigma(work, scale, r, c, photon, read, values)
            count += 1
    return sharp[y, x] / sigma - select(around, count, count // 2), sigma


@njit(nogil=True, cache=True, fastmath=False)
def _fine_structure(work: Pixels, y: int, x: int, values: Pixels) -> float:
    smooth = np.empty(49, np.float32)
    count = 0
    for r in range(max(y - 3, 0), min(y + 4, work.shape[0])):
        for c in range(max(x - 3, 0), min(x + 4, work.shape[1])):
            smooth[count] = median_near(work, r, c, 1, values)
            count += 1
    return median_near(work, y, x, 1, values) - select(smooth, count, count // 2)


@njit(nogil=True, cache=True, fastmath=False)
def _search(
    work: Pixels,
    sharp: Pixels,
    low: Pixels,
    scale: Pixels,
    excluded: Mask,
    found: Mask,
    photon: float,
    read: float,
    threshold: float,
    contrast: float,
) -> int:
    """Add hits to `found`, replace them in `work`; how many are new."""
    rows, columns = work.shape
    values = np.empty(49, np.float32)
    state = np.zeros(work.shape, np.uint8)
    hits = []
    for y in range(rows):
        for x in range(columns):
            least = scale[y, x] * (photon * max(low[y, x], np.float32(0.0)) + read * scale[y, x])
            if sharp[y, x] ** 2 <= threshold**2 * least or excluded[y, x]:
                continue
            excess, sigma = _excess(work, sharp, scale, y, x, photon, read, values)
            if excess > threshold:
                structure = max(_fine_structure(work, y, x, values), _SMOOTH * sigma)
                if excess * sigma > contrast * structure:
                    state[y, x] = 1
                    hits.append((y, x))
    for limit in (threshold, _GROWTH * threshold):
        for k in range(len(hits)):
            y, x = hits[k]
            for r in range(max(y - 1, 0), min(y + 2, rows)):
                for c in range(max(x - 1, 0), min(x + 2, columns)):
                    if state[r, c] == 0 and not excluded[r, c]:
                        excess, _ = _excess(work, sharp, scale, r, c, photon, read, values)
                        if excess > limit:
                            state[r, c] = 1
                            hits.append((r, c))
    new = 0
    for y, x in hits:
        new += 0 if found[y, x] else 1
        found[y, x] = True
    replaced = np.empty(len(hits), np.float32)
    for k in range(len(hits)):
        y, x = hits[k]
        count = 0
        for r in range(max(y - 2, 0), min(y + 3, rows)):
            for c in range(max(x - 2, 0), min(x + 3, columns)):
                if not found[r, c]:
                    values[count] = work[r, c]
                    count += 1
        replaced[k] = select(values, count, count // 2) if count else low[y, x]
    for k in range(len(hits)):
        y, x = hits[k]
        work[y, x] = replaced[k]
    return new


def blockwise(
    key: Hashable,
    shape: tuple[int, int],
    search: Callable[[slice, slice], Mask],
    rows: slice,
    columns: slice,
) -> Mask:
    """Mask of a window, put together of fixed blocks that are searched once and kept.

    Parameters
    ----------
    key
        Says which frame.
    shape
        Its rows and columns.
    search
        Mask of a window of the frame.
    rows, columns
        The window, explicit bounds.
    """
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
    for top in range(rows.start - rows.start % BLOCK, rows.stop, BLOCK):
        for left in range(columns.start - columns.start % BLOCK, columns.stop, BLOCK):
            bottom, right = min(top + BLOCK, shape[0]), min(left + BLOCK, shape[1])
            block = _block((key, top, left), shape, search, slice(top, bottom), slice(left, right))
            y0, y1 = max(top, rows.start), min(bottom, rows.stop)
            x0, x1 = max(left, columns.start), min(right, columns.stop)
            out[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = block[
                y0 - top : y1 - top, x0 - left : x1 - left
            ]
    return out


def _block(
    key: Hashable, shape: tuple[int, int], search: Callable[[slice, slice], Mask], rows: slice, columns: slice
) -> Mask:
    def packed() -> NDArray[np.uint8]:
        top, left = max(rows.start - HALO, 0), max(columns.start - HALO, 0)
        bottom, right = min(rows.stop + HALO, shape[0]), min(columns.stop + HALO, shape[1])
        mask = search(slice(top, bottom), slice(left, right))
        return np.packbits(
            mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left], axis=1
        )

    bits = decoded(key, packed)
    return np.unpackbits(bits, axis=1, count=columns.stop - columns.start).astype(np.bool_)
