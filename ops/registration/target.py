"""What a person writes to say where a canvas lies and how large it is: names, coordinates, sizes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from skyloom.ops.errors import ConfigError
from skyloom.ops.registration.messier import POSITIONS, messier_number

TARGET_EXAMPLES = "'M 31', '10.68 +41.27' (degrees) or '00:42:44 +41:16:09'"
SIZE_EXAMPLES = "'2 deg', '2 x 1.5 deg', '90 arcmin' or '3000 x 2000 px'"

_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_SIZE = re.compile(
    rf"\s*({_NUMBER})\s*(?:[x×*,]\s*({_NUMBER})\s*)?"
    r"(deg|degrees?|°|arcmin|'|arcsec|\"|px|pixels?)\s*",
    re.IGNORECASE,
)
_DEGREES = {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0, "arcmin": 1 / 60, "'": 1 / 60}
_DEGREES |= {"arcsec": 1 / 3600, '"': 1 / 3600}


@dataclass(frozen=True)
class Size:
    """Width and height of a canvas, in degrees or in pixels."""

    width: float
    height: float
    pixels: bool

    def shape(self, pixel_scale: float) -> tuple[int, int]:
        """Rows and columns at a pixel scale (arcsec), the scale of the reference point throughout."""
        step = 1.0 if self.pixels else pixel_scale / 3600.0
        return max(1, round(self.height / step)), max(1, round(self.width / step))

    def radius(self, pixel_scale: float) -> float:
        """Half diagonal (degrees)."""
        step = pixel_scale / 3600.0 if self.pixels else 1.0
        return 0.5 * math.hypot(self.width, self.height) * step


def parse_size(text: str | float) -> Size:
    """Read a size such as "2 x 1.5 deg" (width first).

    Raises
    ------
    ConfigError
        If it is none; the message says how to write one.
    """
    match = _SIZE.fullmatch(str(text))
    if match is None:
        unit = "; say the unit" if isinstance(text, int | float) else ""
        raise ConfigError(f"size = {text!r} is no size{unit}: write {SIZE_EXAMPLES}")
    width = float(match.group(1))
    height = float(match.group(2)) if match.group(2) else width
    unit = match.group(3).lower()
    pixels = unit.startswith(("px", "pixel"))
    factor = 1.0 if pixels else _DEGREES[unit]
    width, height = width * factor, height * factor
    if not (width > 0 and height > 0) or (not pixels and max(width, height) > 360):
        raise ConfigError(f"size = {text!r} should be more than 0 and at most 360 degrees")
    return Size(width, height, pixels)


def parse_target(text: str) -> tuple[float, float]:
    """Right ascension and declination (degrees) of a name of Messier's catalogue or of coordinates.

    Two numbers are degrees; with colons, letters or six numbers the first is in hours.

    Raises
    ------
    ConfigError
        If it is neither; no name is looked up on the network.
    """
    number = messier_number(text)
    if number is not None:
        if number not in POSITIONS:
            raise ConfigError(f"target = {text!r}: Messier's catalogue goes from M 1 to M 110")
        return POSITIONS[number]
    place = _coordinates(text)
    if place is None:
        raise ConfigError(
            f"target = {text!r} is no object of Messier's catalogue and no position: write {TARGET_EXAMPLES}"
        )
    ra, dec = place
    if not (0.0 <= ra <= 360.0 and -90.0 <= dec <= 90.0):
        raise ConfigError(
            f"target = {text!r} is no position on the sky (right ascension {ra:g}°, declination {dec:g}°)"
        )
    return ra % 360.0, dec


def _coordinates(text: str) -> tuple[float, float] | None:
    words = text.replace(",", " ").split()
    if len(words) == 2:
        ra, dec = (_sexagesimal(re.split(r"[:hmsd°'′\"″]", word)) for word in words)
        hours = ":" in words[0] or "h" in words[0]
    elif len(words) == 6:
        ra, dec = (_sexagesimal([w.rstrip("hmsd°'′\"″") for w in part]) for part in (words[:3], words[3:]))
        hours = True
    else:
        return None
    if ra is None or dec is None:
        return None
    return ra * (15.0 if hours else 1.0), dec


def _sexagesimal(parts: list[str]) -> float | None:
    """Value of whole units, minutes and seconds; None where they are none."""
    while parts and not parts[-1]:
        parts = parts[:-1]
    if not 1 <= len(parts) <= 3:
        return None
    sign = -1.0 if parts[0].startswith(("-", "−")) else 1.0
    numbers = [parts[0].lstrip("+-−"), *parts[1:]]
    if not all(re.fullmatch(_NUMBER, n) for n in numbers):
        return None
    values = [float(n) for n in numbers]
    if any(v >= 60 for v in values[1:]):
        return None
    return sign * float(sum(v / 60.0**k for k, v in enumerate(values)))
