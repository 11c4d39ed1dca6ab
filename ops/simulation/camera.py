"""What takes a frame: the detector and its flaws, the foreground, one exposure. Values only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation.projection import Pointing

BAYER = {"RGGB", "BGGR", "GRBG", "GBRG"}
REFERENCE_TEMPERATURE = -10.0
"""°C at which a camera's dark current and hot pixels are stated."""


@dataclass(frozen=True)
class Camera:
    """A detector and the shade in front of it."""

    height: int = 2048
    """Pixels that see light."""
    width: int = 2048
    gain: float = 5.2
    """Electrons per DN."""
    read_noise: float = 10.0
    """Electrons rms."""
    bias: float = 500.0
    """DN of an empty read-out (raw frames)."""
    dark: float = 0.05
    """Dark current at `REFERENCE_TEMPERATURE` (electrons per second and pixel)."""
    saturation: float = 60000.0
    """DN above which the pixel is clipped."""
    bayer: str = ""
    """Colour filter array as read from pixel (0, 0) along x, then y; "" for a monochrome sensor."""
    hot_fraction: float = 0.0
    """Fraction of hot pixels."""
    hot_level: float = 2000.0
    """Mean excess of a hot pixel in a minute (electrons, at `REFERENCE_TEMPERATURE`)."""
    vignetting: float = 0.0
    """Loss of light in the corner (fraction)."""
    dust: int = 0
    """Shadows of dust grains."""
    response: float = 0.0
    """Rms of the pixels' relative sensitivity."""
    seed: int = 1
    temperature: float = REFERENCE_TEMPERATURE
    """Of the sensor (°C)."""
    doubling: float = 6.0
    """Warming that doubles dark current and hot pixels (K)."""
    dark_pattern: float = 0.0
    """Rms of the logarithm of the pixels' relative dark current."""
    cold_fraction: float = 0.0
    """Fraction of pixels that see less than half the light."""
    overscan: int = 0
    """Columns left of the image that see no light and are read out with it (raw frames)."""
    drift: float = 0.0
    """Rms of the bias level from frame to frame (DN, raw frames); what overscan is for."""
    name: str = "Skyloom simulator"
    pixel_size: float = 3.76
    """Micrometres."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.gain <= 0 or self.read_noise < 0:
            raise ConfigError(
                f"a camera needs pixels, gain > 0 and read noise ≥ 0: {self.height} by {self.width} px, "
                f"gain {self.gain:g} e-/DN, read noise {self.read_noise:g} e-"
            )
        if self.bayer and self.bayer not in BAYER:
            raise ConfigError(f"no colour filter array {self.bayer!r}; choose from {', '.join(sorted(BAYER))}")
        if self.overscan < 0 or self.overscan % 2:
            raise ConfigError(f"overscan is an even number of columns, 0 for none; not {self.overscan}")

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the colour filter array; empty for a monochrome sensor."""
        return ("R", "G", "B") if self.bayer else ()

    @property
    def warmth(self) -> float:
        """Dark current over that at `REFERENCE_TEMPERATURE`."""
        return float(2.0 ** ((self.temperature - REFERENCE_TEMPERATURE) / self.doubling))

    @property
    def ceiling(self) -> float:
        """Highest count of a raw frame (DN)."""
        return min(self.saturation, 65535.0)


@dataclass(frozen=True)
class Background:
    """Foreground light over a frame: a surface in detector coordinates (DN).

    b = level · (1 + linear · (x, y) + quadratic · (x², xy, y²)) + moon · exp(steepness (x cos φ + y sin φ)),
    with x = u − ½, y = v − ½ and u, v from 0 to 1 between the centres of the outer pixels.
    """

    level: float
    linear: tuple[float, float] = (0.0, 0.0)
    """Peak-to-peak along each axis, fraction of the level."""
    quadratic: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Coefficients of x², xy and y², fractions of the level."""
    moon: float = 0.0
    """Moonlight at the frame's centre (DN)."""
    moon_angle: float = 0.0
    """Direction of the moon on the detector, φ (degrees)."""
    steepness: float = 0.7

    def at(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Background (DN) at normalized detector positions of equal or broadcastable shape."""
        x, y = u - 0.5, v - 0.5
        p, q = self.linear
        a, b, c = self.quadratic
        phi = math.radians(self.moon_angle)
        surface = self.level * ((1.0 + p * x + a * x * x) + y * (q + b * x + c * y))
        if self.moon:
            k = self.steepness
            surface = surface + self.moon * (np.exp(k * math.cos(phi) * x) * np.exp(k * math.sin(phi) * y))
        return np.asarray(surface)


@dataclass(frozen=True)
class Exposure:
    """One frame: where, through which air, for how long."""

    index: int
    """Number of the frame: with the camera's seed it keys the noise."""
    seconds: float
    pointing: Pointing | None = None
    """None for a shutter that stays closed."""
    band: str = "L"
    fwhm: float = 3.0
    """Seeing (px)."""
    scale: float = 1.0
    """DN per sky unit: transparency · exposure · reference gain / gain."""
    background: Background = Background(0.0)
    flat_level: float = 0.0
    """Uniform light of a flat panel (DN at the centre)."""
    cosmic_rays: float = 0.0
    """Expected hits per megapixel."""
    smear: tuple[float, float] = (0.0, 0.0)
    """How far the stars move during the exposure (px); the nebula, which is smooth, stays."""
    trail: float = 0.0
    """Peak of a satellite trail (DN); 0 = none."""
    pedestal: float = 0.0
    """Added to the counts by the capture program (DN, raw frames)."""
    optics: tuple[int, int] | None = None
    """Filter and night, which have dust of their own; None: all dust is on the sensor's window."""
