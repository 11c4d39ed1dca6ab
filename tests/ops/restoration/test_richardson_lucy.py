"""The iteration against scikit-image's, the blur against sums written out, the kernels against what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from skimage.restoration import richardson_lucy as theirs

from skyloom.ops.restoration.blur import Blur
from skyloom.ops.restoration.richardson_lucy import narrower, richardson_lucy

Floats = NDArray[np.float64]


def stamp(profile: Callable[..., Floats], fwhm: float, ellipticity: float = 0.1, radius: int = 7) -> Floats:
    axis = np.arange(-radius, radius + 1.0)
    values = profile(axis[None, :], axis[:, None], fwhm, ellipticity, 0.7)
    return np.asarray(values / values.sum())


def test_plain_iteration_is_that_of_scikit_image(moffat: Callable[..., Floats]) -> None:
    psf = stamp(moffat, 3.0)
    psf = psf + 0.5 * np.roll(psf, (2, 1), axis=(0, 1))  # not its own mirror image
    psf /= psf.sum()
    rng = np.random.default_rng(1)
    sky = np.zeros((72, 80))
    sky[rng.integers(25, 48, 12), rng.integers(25, 55, 12)] = rng.uniform(0.1, 1.0, 12)
    data = fftconvolve(sky, psf, mode="same").clip(1e-6)
    wanted = theirs(data, psf, num_iter=12, clip=False)  # type: ignore[no-untyped-call]
    flat = np.zeros_like(data, dtype=np.float32)
    found = richardson_lucy(
        data.astype(np.float32), None, Blur.of(psf[None], [], data.shape), flat + 0.5,
        iterations=12, floor=flat, pedestal=flat + 1e-12,
    )  # fmt: skip
    inner = (slice(20, 52), slice(20, 60))
    np.testing.assert_allclose(found[inner], wanted[inner], rtol=2e-3, atol=2e-5)
    assert np.corrcoef(found[inner].ravel(), data[inner].ravel())[0, 1] < 0.95, "it has done something"


def test_blur_gives_every_pixel_its_own_psf(moffat: Callable[..., Floats]) -> None:
    stamps = np.stack([stamp(moffat, f, e) for f, e in ((2.5, 0.0), (3.5, 0.2), (3.0, 0.1))])
    shape = (40, 48)
    rng = np.random.default_rng(2)
    weights = rng.uniform(0, 1, (3, *shape))
    weights /= weights.sum(axis=0)
    light = rng.uniform(0, 1, shape)
    light[:7], light[-7:], light[:, :7], light[:, -7:] = 0, 0, 0, 0
    wanted = np.zeros(shape)
    for y, x in np.argwhere(light > 0):
        wanted[y - 7 : y + 8, x - 7 : x + 8] += light[y, x] * np.tensordot(weights[:, y, x], stamps, axes=1)
    blur = Blur.of(stamps, list(weights), shape)
    found = blur.forward(light.astype(np.float32))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    other = rng.uniform(0, 1, shape).astype(np.float32)
    one = float((found.astype(float) * other).sum())
    two = float((light * blur.adjoint(other)).sum())
    assert abs(one - two) < 1e-5 * abs(one)
    alike = Blur.of(np.stack([stamps[0]] * 3), list(weights), shape)
    assert len(alike.spectra) == 1, "one PSF needs one kernel"


def test_what_is_missing_follows_from_around(moffat: Callable[..., Floats]) -> None:
    psf = stamp(moffat, 3.0)
    y, x = np.mgrid[:61, :61].astype(float)
    data = (5000 * moffat(x - 30.2, y - 29.9, 3.0, 0.1, 0.7)).astype(np.float32)
    known = np.ones_like(data)
    known[29:31, 30:33] = 0
    broken = np.where(known > 0, data, 3.0).astype(np.float32)
    flat = np.zeros_like(data)
    options: dict[str, Any] = {"iterations": 60, "floor": flat, "pedestal": flat + 0.1}
    blur = Blur.of(psf[None], [], data.shape)
    whole = richardson_lucy(data, None, blur, flat + 1, **options)
    found = richardson_lucy(broken, known, blur, flat + 1, **options)
    assert abs(found.sum() / whole.sum() - 1) < 0.08
    assert abs(richardson_lucy(broken, None, blur, flat + 1, **options).sum() / whole.sum() - 1) > 0.2


def test_narrower_kernel_and_gaussian_make_the_psf(moffat: Callable[..., Floats]) -> None:
    psf = stamp(moffat, 4.0, radius=15)
    kernel = narrower(psf, 2.0)
    axis = np.arange(-15, 16.0)
    gauss = np.exp(-4 * np.log(2) * (axis[:, None] ** 2 + axis[None, :] ** 2) / 2.0**2)
    again = fftconvolve(kernel, gauss / gauss.sum(), mode="same")
    assert np.abs(again - psf).max() < 0.003 * psf.max()
    assert kernel.min() >= 0
    assert abs(kernel.sum() - 1) < 1e-12
    assert np.abs(psf - gauss / gauss.sum()).max() > 0.5 * psf.max()
    point = narrower(stamp(moffat, 1.7, 0.0, radius=15), 2.2)
    assert point[15, 15] > 0.8, "a PSF sharper than wanted is left"
