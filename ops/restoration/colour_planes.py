"""A colour picture as planes of brightness and of colour, whose noise is seen differently."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BRIGHTNESS = np.full(3, 1.0 / 3.0)
_RED, _GREEN, _BLUE = np.eye(3) - _BRIGHTNESS
"""Differences from brightness."""
_MIXES = (_BRIGHTNESS, _RED, _BLUE)


@dataclass(frozen=True)
class ColourPlanes:
    """How the bands or channels of an image are taken apart and put together again, linear and exact."""

    names: tuple[str, ...]
    """Of the bands or channels."""
    colour: bool
    """Whether they are red, green and blue of a picture, taken apart; else each is a plane."""

    @classmethod
    def of(cls, lead: str, names: tuple[str, ...]) -> ColourPlanes:
        """Planes of an image over (`lead`, y, x)."""
        return cls(names, lead == "channel" and names == ("R", "G", "B"))

    @property
    def planes(self) -> tuple[str, ...]:
        """Names of the planes."""
        return ("brightness", "red", "blue") if self.colour else self.names

    def chroma(self, plane: int) -> bool:
        """Whether a plane holds colour and no brightness."""
        return self.colour and plane > 0

    def apart(self, pixels: NDArray[np.float32], plane: int) -> Floats:
        """One plane of pixels, shape (channels, rows, columns)."""
        if not self.colour:
            return np.asarray(pixels[plane], np.float64)
        out: Floats = np.tensordot(_MIXES[plane], pixels.astype(np.float64), axes=1)
        return out

    def together(self, planes: Floats) -> Floats:
        """The pixels of `apart`."""
        if not self.colour:
            return planes
        mean, red, blue = planes
        return np.stack([mean + red, mean - red - blue, mean + blue])

    def variances(self, variance: NDArray[np.float32], plane: int) -> Floats:
        """Variance of a plane of pixels of these variances, channels taken as independent."""
        if not self.colour:
            return np.asarray(variance[plane], np.float64)
        out: Floats = np.tensordot(_MIXES[plane] ** 2, variance.astype(np.float64), axes=1)
        return out

    def left(self, variance: Floats, share: Floats) -> Floats:
        """Variance of the pixels after that of the planes became `share` times what it was.

        Notes
        -----
        A channel is brightness plus a difference. Both depend on it, so they are not independent: their covariance
        falls like the square root of what the two keep. The difference of green is made of the other two.
        """
        if not self.colour:
            return variance * share
        root = np.sqrt(share)
        differences = (root[1], (root[1] + root[2]) / 2.0, root[2])
        out = np.empty_like(variance)
        for channel, (mix, kept) in enumerate(zip((_RED, _GREEN, _BLUE), differences, strict=True)):
            terms = ((_BRIGHTNESS**2, root[0] ** 2), (mix**2, kept**2), (2.0 * _BRIGHTNESS * mix, root[0] * kept))
            out[channel] = sum(np.tensordot(weights, variance, axes=1) * factor for weights, factor in terms)
        return out
