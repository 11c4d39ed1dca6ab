"""Denoising a mosaic whose sky is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid, wcs_header
from skyloom.ops.restoration.denoise import denoise, measured_levels
from skyloom.ops.restoration.noise_levels import noise_levels
from skyloom.ops.restoration.starlet import reach
from skyloom.ops.restoration.starlet_noise import starlet_covariance

Floats = NDArray[np.float64]


def mosaic_of(image: Floats, variance: Floats, *, tile: int, lead: str = "band", names: str = "L") -> xr.Dataset:
    """A linear mosaic in tiles."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cd = np.diag([-2.0, 2.0]) / 3600
    wcs.wcs.set()
    grid = Grid(wcs_header(wcs), (image.shape[-2], image.shape[-1]), tile)
    arrays = {"image": image, "variance": variance}
    dataset = xr.Dataset(
        {n: ((lead, "y", "x"), a.reshape(len(names), *grid.shape).astype(np.float32)) for n, a in arrays.items()},
        {lead: list(names)},
        {**grid.to_attrs(), "units": "adu"},
    )
    return dataset.chunk({lead: 1, "y": tile, "x": tile})


@dataclass(frozen=True)
class Scene:
    """Left half with noise 1, right half with noise 4."""

    truth: Floats
    image: Floats
    variance: Floats
    x: Floats
    y: Floats
    flux: Floats

    def signal_to_noise(self) -> Floats:
        """Of each star, for a fit of its profile."""
        noise = np.where(self.x < self.image.shape[1] / 2, 1.0, 4.0)
        return np.asarray(self.flux / (noise * np.sqrt(4 * np.pi) * 1.5))

    def fluxes(self, image: Any) -> Floats:
        """Sums over apertures of 5 pixels less the level around."""
        sums = []
        for xs, ys in zip(self.x, self.y, strict=True):
            top, left = int(ys) - 15, int(xs) - 15
            part = np.asarray(image, dtype=np.float64)[top : top + 31, left : left + 31]
            rows, columns = np.mgrid[top : top + 31, left : left + 31]
            distance = np.hypot(columns - xs, rows - ys)
            inside, ring = distance < 5, (distance > 9) & (distance < 14)
            sums.append(part[inside].sum() - inside.sum() * np.median(part[ring]))
        return np.array(sums)

    def away(self, distance: float) -> NDArray[np.bool_]:
        """Pixels so far from all stars and from the step."""
        rows, columns = np.mgrid[: self.image.shape[0], : self.image.shape[1]]
        far = abs(columns - self.image.shape[1] / 2) > distance
        for xs, ys in zip(self.x, self.y, strict=True):
            far &= np.hypot(columns - xs, rows - ys) > distance
        return np.asarray(far)


@pytest.fixture(scope="module")
def scene() -> Scene:
    rng = np.random.default_rng(11)
    shape = (768, 1024)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    # A cloud of the wide half of a degree, half the noise of a pixel bright.
    truth = 100.0 + 0.5 * np.exp(-0.5 * (((columns - 250) / 90) ** 2 + ((rows - 550) / 60) ** 2))
    x: list[float] = []
    y: list[float] = []
    flux: list[float] = []
    while len(x) < 60:
        xs, ys = rng.uniform(20, shape[1] - 20), rng.uniform(20, 350)
        if all(np.hypot(xs - a, ys - b) > 40 for a, b in zip(x, y, strict=True)):
            x.append(xs)
            y.append(ys)
            flux.append(10 ** rng.uniform(2.8, 4.5))
            spot = np.exp(-0.5 * ((columns - xs) ** 2 + (rows - ys) ** 2) / 1.5**2)
            truth += flux[-1] * spot / spot.sum()
    noise = np.where(columns < shape[1] / 2, 1.0, 4.0)
    image = truth + noise * rng.normal(size=shape)
    image[700:, 900:] = np.nan
    image[30:34, 40:60] = np.nan
    return Scene(truth, image, noise**2, np.array(x), np.array(y), np.array(flux))


def run(image: xr.Dataset, *inputs: xr.Dataset, **parameters: Any) -> xr.Dataset:
    with dask.config.set(scheduler="synchronous"):
        return denoise(image, *inputs, **parameters).compute()


def measured(image: xr.Dataset, **parameters: Any) -> xr.Dataset:
    with dask.config.set(scheduler="synchronous"):
        return noise_levels(image, **parameters).compute()


def weighted(values: Floats, taps: list[float], step: int) -> Floats:
    """Sum of taps · values along both axes; nothing beyond the array."""
    middle = len(taps) // 2
    for axis in (0, 1):
        padded = np.pad(values, [(middle * step,) * 2 if a == axis else (0, 0) for a in (0, 1)])
        length = values.shape[axis]
        values = np.asarray(sum(t * padded.take(np.arange(length) + k * step, axis) for k, t in enumerate(taps)))
    return values


def largest(values: Floats, count: int, step: int) -> Floats:
    height, width = values.shape
    padded = np.pad(values, count * step)
    shifts = [k * step for k in range(2 * count + 1)]
    return np.asarray(np.max([padded[a : a + height, b : b + width] for a in shifts for b in shifts], axis=0))


def naive(
    image: Floats,
    variance: Floats,
    *,
    low: float,
    quiet: float,
    reference: float,
    scales: int,
    around: int,
    restore: int,
) -> tuple[Floats, Floats]:
    """Same formulas over the whole image, in plain numpy."""
    covariance = starlet_covariance(scales, 1.0)
    there = np.isfinite(image).astype(float)
    level, noise, out = np.where(there > 0, image, 0.0), np.where(there > 0, variance, 0.0), image.copy()
    spline, near = [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], [0.25, 0.5, 0.25]
    factors, signals = [], []

    def smoothed(values: Floats, step: int) -> Floats:
        return np.where(there > 0, weighted(values, spline, step) / weighted(there, spline, step), 0.0)

    with np.errstate(invalid="ignore", divide="ignore"):
        for scale in range(scales):
            step = 2**scale
            smooth = smoothed(level, step)
            detail = level - smooth
            energy = np.where(there > 0, detail**2 / (noise * covariance[scale, scale]), 0.0)
            pooled = np.where(there > 0, weighted(energy, near, step) / weighted(there, near, step), 0.0)
            t = np.clip(np.sqrt(pooled) / low - 1, 0, 1)
            signal = largest(t * t * (3 - 2 * t), around, step)
            signals.append(np.maximum(2 * signal - 1, 0))
            left = np.minimum(1.0, quiet * np.sqrt(reference / noise)) if reference else quiet
            factors.append(left + (1 - left) * signal)
            out -= (1 - factors[-1]) * detail
            noise = smoothed(noise, step)
            level = smooth
        for _ in range(restore):
            level = np.where(there > 0, image - out, 0.0)
            for scale, signal in enumerate(signals):
                smooth = smoothed(level, 2**scale)
                out = out + signal * (level - smooth)
                level = smooth
    kept = np.stack([*factors, np.ones_like(out)])
    return out, variance * np.einsum("iyx,jyx,ij->yx", kept, kept, covariance)


@pytest.mark.parametrize(("around", "restore"), [(0, 2), (3, 0), (1, 1)])
def test_equals_plain_numpy(scene: Scene, around: int, restore: int) -> None:
    part = np.s_[:260, 400:700]
    image, variance = scene.image[part].astype(np.float32), scene.variance[part].astype(np.float32)
    image[100:130, 80:90] = np.nan
    given = image.astype(float), variance.astype(float)
    mosaic = mosaic_of(*given, tile=320)
    options: dict[str, Any] = {"strength": 0.7, "threshold": 1.5, "scales": 4, "scale_strength": [1.0] * 4}
    options |= {"protect": around, "restore": restore}
    by: dict[str, Any] = {"low": 1.5, "quiet": 0.3, "scales": 4, "around": around, "restore": restore}
    got = run(mosaic, **options)
    expected, left = naive(*given, reference=0.0, **by)
    np.testing.assert_allclose(got["image"].values[0], expected, rtol=2e-7, atol=0)
    np.testing.assert_allclose(got["variance"].values[0][np.isfinite(image)], left[np.isfinite(image)], rtol=1e-6)
    # Even noise: the reference is measured, here handed over.
    levels = measured(mosaic, scales=4)
    levels["ratio"][:] = 1.0
    levels["sigma"][:] = 2.0
    got = run(mosaic, levels, **options)
    expected, _ = naive(*given, reference=4.0, **by)
    np.testing.assert_allclose(got["image"].values[0], expected, rtol=2e-7, atol=0)


@pytest.mark.parametrize("tile", [96, 224, 544])
def test_tiles_do_not_show(scene: Scene, tile: int) -> None:
    image, variance = scene.image[:600, 200:840], scene.variance[:600, 200:840]
    whole = run(mosaic_of(image, variance, tile=640), scales=4)
    tiled = run(mosaic_of(image, variance, tile=tile), scales=4)
    for name in ("image", "variance"):
        np.testing.assert_array_equal(tiled[name].values, whole[name].values)


@pytest.mark.parametrize(("around", "restore"), [(0, 2), (3, 0)])
def test_reach_is_what_a_pixel_depends_on(around: int, restore: int) -> None:
    """A pixel just beyond changes nothing, and one within does."""
    rng = np.random.default_rng(3)
    far = reach(3, around, restore)
    side = 2 * far + 41
    image = rng.normal(size=(side, side))
    options: dict[str, Any] = {"scales": 3, "protect": around, "restore": restore}
    before = run(mosaic_of(image, np.ones_like(image), tile=256), **options)["image"].values[0]
    image[side // 2, side // 2] += 50.0
    after = run(mosaic_of(image, np.ones_like(image), tile=256), **options)["image"].values[0]
    rows, columns = np.nonzero(after != before)
    assert max(abs(rows - side // 2).max(), abs(columns - side // 2).max()) <= far
    assert abs(rows - side // 2).max() > far // 4


@pytest.fixture(scope="module")
def result(scene: Scene) -> xr.Dataset:
    mosaic = mosaic_of(scene.image, scene.variance, tile=512)
    return run(mosaic, measured(mosaic))


def scatter(values: Any) -> float:
    return float(1.4826 * np.nanmedian(abs(values - np.nanmedian(values))))


def test_a_step_of_depth_disappears() -> None:
    rng = np.random.default_rng(2)
    shape = (768, 1536)
    columns = np.arange(shape[1])
    variance = np.broadcast_to(np.where(columns < shape[1] / 2, 1.0, 16.0), shape)
    image = 100.0 + np.sqrt(variance) * rng.normal(size=shape)
    mosaic = mosaic_of(image, variance, tile=768)
    got = run(mosaic, measured(mosaic))
    left = got["image"].values[0]
    sides = [np.s_[:, 64:700], np.s_[:, 836:-64]]
    before, after = [image[s].std() for s in sides], [left[s].std() for s in sides]
    assert before[1] / before[0] == pytest.approx(4.0, rel=0.01)
    assert after[1] / after[0] == pytest.approx(1.0, abs=0.1)
    assert after[0] < 0.22 * before[0]
    assert after == pytest.approx([np.sqrt(np.mean(got["variance"].values[0][s])) for s in sides], rel=0.03)
    # Beside the step coefficients see both sides, and there is nothing to be seen of it.
    assert left[:, 736:768].std() < 1.3 * after[0]
    assert left[:, 768:800].std() < 1.3 * after[0]
    assert left[:, 700:836].mean(axis=0) == pytest.approx(100.0, abs=0.6)


def test_noise_is_even_between_stars(scene: Scene, result: xr.Dataset) -> None:
    columns = np.arange(scene.image.shape[1])
    residual = result["image"].values[0] - scene.truth
    away = scene.away(64.0) & np.isfinite(residual)
    deep = columns[None, :] < scene.image.shape[1] / 2
    assert scatter(residual[away & ~deep]) < 1.15 * scatter(residual[away & deep])
    assert scatter(residual[away & deep]) < 0.22


def test_fluxes_of_stars_are_kept(scene: Scene, result: xr.Dataset) -> None:
    before, after = scene.fluxes(scene.image), scene.fluxes(result["image"].values[0])
    change = (after - before) / scene.flux
    ratio = scene.signal_to_noise()
    bright = np.isfinite(change) & (ratio > 100)
    middle = np.isfinite(change) & (ratio > 30) & ~bright
    assert bright.sum() > 20
    assert middle.sum() > 5
    assert abs(change[bright]).max() < 0.02
    assert abs(change[bright].mean()) < 0.005
    assert abs(change[ratio > 300]).max() < 0.005
    assert abs(change[middle].mean()) < 0.025
    # No further from the truth than with all of the noise.
    for part in (middle, bright & (ratio < 300)):
        old, new = (np.std((f / scene.flux - 1.0)[part] * ratio[part]) for f in (before, after))
        assert new < old
    kept = run(mosaic_of(scene.image, scene.variance, tile=512), protect=3, restore=0)["image"].values[0]
    change = (scene.fluxes(kept) - before) / scene.flux
    assert abs(change[bright]).max() < 0.01
    assert abs(change[middle].mean()) < 0.01
    # Peaks without their rings.
    bare = run(mosaic_of(scene.image, scene.variance, tile=512), restore=0)["image"].values[0]
    assert abs((scene.fluxes(bare) - before) / scene.flux)[bright].max() > 0.05


def test_drops_on_a_finer_canvas_are_denoised_evenly(scene: Scene) -> None:
    rng = np.random.default_rng(5)
    shape = scene.image.shape
    half = shape[0] // 2, shape[1] // 2
    total, weight = np.zeros((2, *shape))
    # Squares of 2 × 2 pixels, half of them empty: what a colour filter array leaves of a frame of that colour.
    for _ in range(12):
        row, column = rng.integers(0, 4, 2)
        there = np.kron(np.indices(half).sum(axis=0) % 2, np.ones((2, 2)))
        noise = np.kron(rng.normal(0.0, 6.0, half), np.ones((2, 2)))
        there, noise = (np.roll(a, (row, column), (0, 1)) for a in (there, noise))
        total += there * noise
        weight += there
    assert weight.min() > 0
    assert weight.max() >= 3 * weight.min(), "unevenly deep"
    mosaic = mosaic_of(scene.truth + total / weight, 36.0 / weight, tile=512)
    done = run(mosaic, measured(mosaic), strength=0.7)["image"].values[0]
    away = scene.away(20)
    before, left = (total / weight)[away], (done - scene.truth)[away]
    assert scatter(left) < 0.45 * scatter(before)
    alone = run(mosaic, strength=0.7)["image"].values[0] - scene.truth
    assert scatter(left) < 0.95 * scatter(alone[away]), "the variance map does not know of squares"
    # As quiet where few drops fell as where many did.
    deep = weight[away] >= np.median(weight)
    assert scatter(left[~deep]) < 1.15 * scatter(left[deep])
    bright = scene.flux > 30 * scatter(before) * np.sqrt(4 * np.pi) * 1.5
    assert bright.sum() > 20
    change = (scene.fluxes(done) - scene.fluxes(mosaic["image"].values[0])) / scene.flux
    assert abs(change[bright].mean()) < 0.01
    assert abs(change[bright]).max() < 0.05


def test_discs_around_stars_are_small(scene: Scene, result: xr.Dataset) -> None:
    mosaic = mosaic_of(scene.image, scene.variance, tile=512)
    protected = run(mosaic, measured(mosaic), protect=3, restore=0)["image"].values[0] - scene.truth
    residual = result["image"].values[0] - scene.truth
    rows, columns = np.mgrid[: scene.image.shape[0], : scene.image.shape[1]]
    near = np.zeros(scene.image.shape, bool)
    for x, y in zip(scene.x, scene.y, strict=True):
        distance = np.hypot(columns - x, rows - y)
        near |= (distance > 8) & (distance < 14)
    for half, usual in ((columns > 540, 4.0), (columns < 500, 1.0)):
        left = np.nanstd(residual[near & half])
        assert left < 0.75 * np.nanstd(protected[near & half])
        # Of all noise a fifth is left elsewhere.
        assert left < 0.45 * usual


def test_a_faint_cloud_is_kept(scene: Scene, result: xr.Dataset) -> None:
    rows, columns = np.mgrid[: scene.image.shape[0], : scene.image.shape[1]]
    cloud = np.hypot((columns - 250) / 90, (rows - 550) / 60) < 1.5
    change = result["image"].values[0][cloud] - scene.image[cloud]
    assert abs(change.sum()) < 0.02 * (scene.truth[cloud] - 100.0).sum()


def test_variance_is_that_of_what_is_left(scene: Scene) -> None:
    """Many noises over one sky: their scatter pixel by pixel."""
    rng = np.random.default_rng(5)
    part = np.s_[380:480, 440:584]
    truth, variance = scene.truth[part], scene.variance[part]
    found, said = [], []
    for _ in range(40):
        image = truth + np.sqrt(variance) * rng.normal(size=truth.shape)
        got = run(mosaic_of(image, variance, tile=160), scales=3)
        found.append(got["image"].values[0])
        said.append(got["variance"].values[0])
    ratio = np.var(found, axis=0, ddof=1) / np.mean(said, axis=0)
    assert ratio[20:-20, 16:56].mean() == pytest.approx(1.0, abs=0.06)
    assert ratio[20:-20, 88:-16].mean() == pytest.approx(1.0, abs=0.06)


def test_linear_where_it_should_be(scene: Scene) -> None:
    part = np.s_[400:656, 500:756]
    mosaic = mosaic_of(scene.image[part], scene.variance[part], tile=256)
    kept = run(mosaic, strength=0.0)
    np.testing.assert_array_equal(kept["image"].values, mosaic["image"].values)
    np.testing.assert_allclose(
        kept["variance"].values[np.isfinite(kept["image"].values)],
        mosaic["variance"].values[np.isfinite(kept["image"].values)],
        rtol=1e-6,
    )
    one, other = run(mosaic, strength=1.0), run(mosaic, strength=0.5)
    half = 0.5 * (mosaic["image"].values + one["image"].values)
    np.testing.assert_allclose(other["image"].values, half, rtol=1e-6)
    # Scales of strength 0 are not touched: what is taken out has no fine structure.
    coarse = run(mosaic, strength=1.0, scales=4, scale_strength=[0.0, 0.0, 0.0])
    taken = (mosaic["image"].values - coarse["image"].values)[0]
    steps = np.diff(taken[100:200, 100:200], axis=1)
    assert taken[100:200, 100:200].std() > 5 * steps.std()
    # Pixels in another unit.
    scaled = mosaic_of(8.0 * scene.image[part], 64.0 * scene.variance[part], tile=256)
    np.testing.assert_allclose(
        run(scaled)["image"].values, 8.0 * run(mosaic)["image"].values, rtol=1e-6, equal_nan=True
    )


def test_noise_levels_find_what_the_variance_map_lacks(scene: Scene) -> None:
    wrong = mosaic_of(scene.image, scene.variance / 4.0, tile=512)
    levels = measured(wrong)
    assert levels["ratio"].dims == ("plane", "y", "x", "scale")
    ratios = np.nanquantile(levels["ratio"].values, 0.25, axis=(1, 2))[0]
    np.testing.assert_allclose(ratios[:4], 2.0, rtol=0.06)
    right = mosaic_of(scene.image, scene.variance, tile=512)
    expected = run(right, measured(right))["image"].values
    got = run(wrong, levels)["image"].values
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_noise_levels_do_not_depend_on_tiles(scene: Scene) -> None:
    expected = measured(mosaic_of(scene.image, scene.variance, tile=1024))
    assert expected["sigma"].shape == (1, 3, 4)
    # Cells of 256 pixels, and tiles that hold no whole number of them.
    got = measured(mosaic_of(scene.image, scene.variance, tile=200))
    for name in ("ratio", "sigma"):
        np.testing.assert_array_equal(got[name].values, expected[name].values)


def test_clouds_over_the_whole_field_are_no_noise(scene: Scene) -> None:
    """Structures of 8 to 32 pixels everywhere, brighter than the noise at their scales."""
    rng = np.random.default_rng(6)
    shape = (512, 512)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1])))
    power = np.exp(-0.5 * (frequency * 60.0) ** 2)
    clouds = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * power).real
    clouds *= 3.0 / clouds.std()
    image = 100.0 + clouds + rng.normal(size=shape)
    mosaic = mosaic_of(image, np.ones(shape), tile=512)
    levels = measured(mosaic)
    assert np.median(levels["ratio"].values[..., 4]) > 5.0
    ratios, references = measured_levels(levels["ratio"].values, levels["sigma"].values, scales=5, planes=1)
    assert ratios.max() < 1.15
    np.testing.assert_allclose(references, 1.0)
    residual = run(mosaic, levels)["image"].values[0] - 100.0 - clouds
    assert residual[64:-64, 64:-64].std() < 0.35
    assert abs(np.polyfit(clouds.ravel(), residual.ravel(), 1)[0]) < 0.03


def test_colour_is_denoised_more_than_brightness(scene: Scene) -> None:
    rng = np.random.default_rng(9)
    variance = np.stack([np.full((384, 512), v) for v in (4.0, 9.0, 1.0)])
    image = 50.0 + np.sqrt(variance) * rng.normal(size=variance.shape)
    image[:, 40:50, 60:70] = np.nan
    picture = mosaic_of(image, variance, tile=512, lead="channel", names="RGB")
    levels = measured(picture)
    assert list(levels["plane"].values) == ["brightness", "red", "blue"]
    got = run(picture, levels, strength=0.6, chroma_left=0.25, scale_strength=[1.0] * 5)
    assert got["image"].dims == ("channel", "y", "x")
    pixels = got["image"].values.astype(float)
    np.testing.assert_array_equal(np.isnan(pixels), np.isnan(picture["image"].values))
    bright, red = pixels.mean(axis=0), pixels[0] - pixels.mean(axis=0)
    before = image - image.mean(axis=0)
    assert np.nanstd(bright) / np.nanstd(image.mean(axis=0)) == pytest.approx(0.4, abs=0.02)
    assert np.nanstd(red) / np.nanstd(before[0]) == pytest.approx(0.1, abs=0.02)
    assert np.nanmean(pixels, axis=(1, 2)) == pytest.approx(np.nanmean(image, axis=(1, 2)), abs=0.02)
    said = np.nanmedian(got["variance"].values, axis=(1, 2))
    np.testing.assert_allclose(said, np.nanvar(pixels, axis=(1, 2)), rtol=0.1)


def test_mistakes_are_told(scene: Scene) -> None:
    mosaic = mosaic_of(scene.image[:64, :64], scene.variance[:64, :64], tile=64)
    with pytest.raises(DataError, match="denoising needs the variance map of the image, there is none"):
        denoise(mosaic.drop_vars("variance"))
    with pytest.raises(DataError, match="denoising needs linear data, these have been stretched"):
        denoise(mosaic.assign_attrs(linear=False))
    with pytest.raises(ConfigError, match=r"scale_strength = \[0.5, 1.5\]: at most 5 numbers of 0 to 1"):
        denoise(mosaic, scale_strength=[0.5, 1.5])
    with pytest.raises(DataError, match="the noise levels are of 3 scales, not 5; set noise_levels' scales"):
        denoise(mosaic, noise_levels(mosaic, scales=3))
    other = mosaic_of(scene.image[:96, :64], scene.variance[:96, :64], tile=96)
    with pytest.raises(DataError, match="the noise levels are not of this image"):
        denoise(mosaic, noise_levels(other))


def test_stays_lazy_and_keeps_what_it_is_told(scene: Scene) -> None:
    mosaic = mosaic_of(scene.image[:128, :128], scene.variance[:128, :128], tile=64)
    lazy = denoise(mosaic.assign_attrs(kernel_noise_factor=0.8, provenance="[]"))
    assert lazy["image"].chunks == ((1,), (64, 64), (64, 64))
    assert lazy.attrs["grid_shape"] == mosaic.attrs["grid_shape"]
    assert (lazy.attrs["units"], lazy.attrs["kernel_noise_factor"]) == ("adu", 1.0)
    assert "provenance" not in lazy.attrs
    assert lazy.attrs["denoised"] == "starlets of 5 scales, strength 0.8: noise correlated over 32 pixels"
