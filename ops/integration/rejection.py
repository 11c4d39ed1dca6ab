"""The rules of rejection: methods, their limits, and the numbers of order statistics they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from skyloom.ops.errors import ConfigError

Method = Literal[
    "auto", "none", "minmax", "percentile", "noise", "averaged", "sigma", "mad", "winsorized", "linear", "esd"
]

NONE, SIGMA, WINSORIZED, NOISE, AVERAGED, MAD, PERCENTILE, MINMAX, LINEAR, ESD = range(10)

SIMULATED = 20
"""Up to this many samples the spread is a range whose mean was simulated; beyond, one of a sixth of the ranks."""
_LARGEST = 65535
# Noise over the median of nine ranges, simulated, for n = 2 … 20: second largest - second smallest, of n = 2 and 3
# largest - smallest; for n = 2 the noise is that of a difference.
SPREAD_TO_NOISE = (1.435, 0.623, 2.040, 1.088, 0.814, 0.680, 0.600, 0.547, 0.507, 0.477, 0.453, 0.434, 0.418,
                   0.405, 0.393, 0.383, 0.374, 0.365, 0.358)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """What a method is, apart from its arithmetic."""

    code: int
    few: int
    """From this number of samples on the method applies; fewer are compared with the noise."""
    low: float
    """Default limits."""
    high: float
    sigmas: bool = True
    """The limits count standard deviations of a sample."""
    cut: bool = False
    """The method gives limits of its own for each pixel, and not a scatter."""
    excused: bool = True
    """Disagreement that the surroundings explain is excused, and outliers grow."""


# Limits at which noise alone loses less than 0.5 % of its samples: PixInsight's and Siril's for the line (5, 4)
# lose 3 … 6 %, a test at 5 % one sample of twenty pixels and its neighbours in rank.
RULES: Mapping[str, Rule] = {
    "auto": Rule(WINSORIZED, 8, 4.0, 3.0),
    "none": Rule(NONE, 2, 4.0, 3.0),
    "minmax": Rule(MINMAX, 3, 1.0, 1.0, sigmas=False, cut=True, excused=False),
    "percentile": Rule(PERCENTILE, 3, 0.2, 0.1, sigmas=False, cut=True),
    "noise": Rule(NOISE, _LARGEST, 4.0, 3.0),
    "averaged": Rule(AVERAGED, _LARGEST, 4.5, 3.5),
    "sigma": Rule(SIGMA, 15, 4.0, 3.0),
    "mad": Rule(MAD, 8, 4.0, 3.0),
    "winsorized": Rule(WINSORIZED, 8, 4.0, 3.0),
    "linear": Rule(LINEAR, 15, 10.0, 9.0, sigmas=False, cut=True),
    "esd": Rule(ESD, 10, 1.0, 1.0, sigmas=False, cut=True),
}


@dataclass(frozen=True)
class Rejection:
    """How outliers are told from the rest.

    Of few samples the scatter is useless (one outlier in four is half of it): limits come from the noise of the
    frames and of the surroundings, at 4 and 3 sigma where the method's own limits are none of sigmas. With two
    samples the higher one is rejected (cosmic rays and trails are positive); a single one is kept.
    """

    method: Method = "winsorized"
    low: float | None = None
    """Limit below the centre, in the method's unit; None: its default."""
    high: float | None = None
    """Limit above the centre."""
    grow: float | None = 2.0
    """Limit for the neighbours of rejected samples in the same frame; None: do not grow."""
    tolerance: float = 3.0
    """Disagreement excused in units of the range of the centre over 3 × 3 pixels: star cores in varying seeing.
    Peaks and wings of stars (`skyloom.ops.integration.tolerance`) are excused in proportion."""
    few: int | None = None
    """From this number of samples on the method applies; None: its default."""
    floor: float = 0.7
    """The scatter of samples is taken to be at least this fraction of the frames' noise."""
    significance: float = 0.02
    """esd: chance of finding an outlier in a pixel that has none."""
    outliers: float = 0.3
    """esd: largest fraction of a pixel's samples that may be outliers."""

    def __post_init__(self) -> None:
        if self.method not in RULES:
            raise ConfigError(f"rejection {self.method!r} is unknown; there is: {', '.join(RULES)}")
        if self.few is not None and not 3 <= self.few <= _LARGEST:
            raise ConfigError(f"few = {self.few} is out of range: 3 to {_LARGEST}")
        low, high = self.limits
        if self.method == "minmax" and (low % 1 or high % 1 or low + high < 1):
            raise ConfigError(f"minmax: low = {low:g} and high = {high:g} are how many samples go: whole numbers")
        if self.method != "minmax" and min(low, high) <= 0:
            raise ConfigError(f"rejection {self.method}: low = {low:g} and high = {high:g} should be above 0")

    @property
    def rule(self) -> Rule:
        """What the method is."""
        return RULES[self.method]

    @property
    def limits(self) -> tuple[float, float]:
        """Limit below and above, defaults filled in."""
        rule = self.rule
        return (rule.low if self.low is None else self.low, rule.high if self.high is None else self.high)

    @property
    def noise_limits(self) -> tuple[float, float]:
        """Limits below and above where samples are few (sigma)."""
        return self.limits if self.rule.sigmas else (RULES["noise"].low, RULES["noise"].high)

    @property
    def least(self) -> int:
        """Number of samples from which on the method applies."""
        few = self.rule.few if self.few is None else self.few
        return max(few, int(sum(self.limits)) + 1) if self.method == "minmax" else few


@lru_cache(maxsize=64)
def spread_ranks(frames: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ranks from either end between which the spread of n samples is taken, and noise over that spread.

    For n = 0 … `frames`. Beyond `SIMULATED` from expected normal order statistics (Blom 1958).
    """
    ranks = np.zeros(max(frames, 3) + 1, dtype=np.int32)
    factors = np.zeros(ranks.size, dtype=np.float32)
    for n in range(2, ranks.size):
        if n <= SIMULATED:
            ranks[n], factors[n] = int(n > 3), SPREAD_TO_NOISE[n - 2]
        else:
            ranks[n] = n // 6
            factors[n] = 0.5 / ndtri((n - ranks[n] - 0.375) / (n + 0.25))
    return ranks, factors


@lru_cache(maxsize=64)
def esd_limits(frames: int, significance: float) -> NDArray[np.float64]:
    """Critical values of the extreme studentised deviate of m samples, m = 0 … `frames` (Rosner 1983)."""
    m = np.arange(max(frames, 3) + 1, dtype=np.float64)
    out = np.full(m.size, np.inf)
    m = m[3:]
    t = stdtrit(m - 2.0, 1.0 - significance / (2.0 * m))
    out[3:] = t * (m - 1.0) / np.sqrt((m - 2.0 + t * t) * m)
    return out
