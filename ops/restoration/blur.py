"""Convolution with a PSF that changes over the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]

NEGLECTED = 5e-4
"""Of a PSF, the sum of what differences may be left out."""


def transform(values: Pixels) -> NDArray[np.complex64]:
    """Fourier transform of real pixels, one thread."""
    return np.asarray(fft.rfft2(values, workers=1))


def back(spectrum: NDArray[np.complex64], shape: tuple[int, int]) -> Pixels:
    """Inverse of `transform`."""
    return np.asarray(fft.irfft2(spectrum, s=shape, workers=1, overwrite_x=True), dtype=np.float32)


@dataclass(frozen=True)
class Blur:
    """Σ of kernels, each with a map of how much of it there is: the light of a pixel goes where its own PSF says.

    Periodic: a margin of the PSF's radius around what counts must not count.
    """

    shape: tuple[int, int]
    spectra: tuple[NDArray[np.complex64], ...]
    maps: tuple[Pixels | None, ...]
    """None: 1 everywhere."""

    @classmethod
    def of(cls, stamps: Floats, weights: Sequence[Floats], shape: tuple[int, int]) -> Blur:
        """PSF Σ weightᵢ(pixel)·stampᵢ, by the fewest kernels that make it up.

        Parameters
        ----------
        stamps
            Shape (n, side, side), sums 1, centred.
        weights
            n maps over `shape` that add up to 1 (ignored where n = 1).
        shape
            Rows, columns (pixels).
        """
        count = len(stamps)
        kernels, maps = [stamps.mean(axis=0)], [None]
        if count > 1:
            around = (stamps - kernels[0]).reshape(count, -1)
            mix, size, parts = np.linalg.svd(around, full_matrices=False)
            for k in range(count):
                share = mix[:, k] * size[k]
                if np.abs(share).max() * np.abs(parts[k]).sum() <= NEGLECTED:
                    break
                kernels.append(parts[k].reshape(stamps.shape[1:]))
                maps.append(sum(w * s for w, s in zip(weights, share, strict=True)).astype(np.float32))
        return cls(shape, tuple(_spectrum(k, shape) for k in kernels), tuple(maps))

    def forward(self, light: Pixels) -> Pixels:
        """Blurred image of the light."""
        total = None
        for spectrum, amount in zip(self.spectra, self.maps, strict=True):
            part = transform(light if amount is None else light * amount)
            part *= spectrum
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return back(total, self.shape)

    def adjoint(self, image: Pixels) -> Pixels:
        """Σ over the image, for each pixel weighted as its own PSF spreads its light."""
        found = transform(image)
        out = None
        for spectrum, amount in zip(self.spectra, self.maps, strict=True):
            part = back(found * spectrum.conj(), self.shape)
            if amount is not None:
                part *= amount
            out = part if out is None else np.add(out, part, out=out)
        assert out is not None
        return out


def _spectrum(kernel: Floats, shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Transform of a kernel whose middle pixel is the origin."""
    full = np.zeros(shape)
    side = kernel.shape[0]
    full[:side, :side] = kernel
    full = np.roll(full, (-(side // 2), -(side // 2)), axis=(0, 1))
    return np.asarray(fft.rfft2(full, workers=1), dtype=np.complex64)
