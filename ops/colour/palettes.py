"""Which band shows in which colour: palettes, and mixtures a user writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.expression import PIXEL_FUNCTIONS, Expression

PaletteName = Literal["auto", "LRGB", "RGB", "SHO", "HOO", "HaRGB", "HaLRGB", "L", "custom"]

_RGB = {"red": "R", "green": "G", "blue": "B"}
_HA_RED = {**_RGB, "red": "0.4 * R + 0.6 * Ha"}

PALETTES: Mapping[str, Mapping[str, str]] = {
    "LRGB": {**_RGB, "luminance": "L"},
    "RGB": _RGB,
    "SHO": {"red": "SII", "green": "Ha", "blue": "OIII"},
    "HOO": {"red": "Ha", "green": "OIII", "blue": "OIII"},
    "HaRGB": _HA_RED,
    "HaLRGB": {**_HA_RED, "luminance": "L"},
    "L": {"luminance": "L"},
}
"""Palette → part → mixture of bands."""

_AUTO = ("HaLRGB", "LRGB", "HaRGB", "RGB", "SHO", "HOO")
COLOURS = ("red", "green", "blue")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """The mixtures of a picture: three colours or none, and the luminance or none."""

    bands: tuple[str, ...]
    """Names of the bands of the mosaic."""
    parts: tuple[tuple[str, str], ...]
    """(part, mixture) in the order red, green, blue, luminance."""

    @classmethod
    def of(cls, palette: str, mixtures: Mapping[str, str], bands: Sequence[str]) -> Recipe:
        """Recipe of a palette with mixtures of the user in the place of its own.

        Raises
        ------
        ConfigError
            If a mixture is none, or a colour is missing.
        DataError
            If a band is missing.
        """
        if palette == "auto":
            palette = next((p for p in _AUTO if not _missing(PALETTES[p].values(), bands)), "")
            if not palette and any(mixtures.values()):
                palette = "custom"
            if not palette:
                raise DataError(
                    f"the bands {', '.join(bands)} fit no palette ({', '.join(_AUTO)}); write red, green and blue "
                    "as mixtures of them"
                )
        parts = {**PALETTES.get(palette, {}), **{k: v for k, v in mixtures.items() if v}}
        lacking = _missing(parts.values(), bands)
        if lacking:
            raise DataError(
                f"palette {palette} needs the bands {', '.join(sorted(_used(parts.values())))}; "
                f"missing: {', '.join(lacking)}; there is: {', '.join(bands)}"
            )
        without = [c for c in COLOURS if c not in parts]
        if without and (len(without) < 3 or "luminance" not in parts):
            raise ConfigError(f"palette {palette}: give a mixture for {', '.join(without)}")
        order = (*(c for c in COLOURS if c in parts), *(("luminance",) if "luminance" in parts else ()))
        recipe = cls(tuple(bands), tuple((p, parts[p]) for p in order))
        recipe.expressions()
        return recipe

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of the picture."""
        return ("R", "G", "B") if self.parts[0][0] == "red" else ("L",)

    def expressions(self) -> dict[str, Expression]:
        """Part → parsed mixture."""
        return {part: mixture(text, self.bands) for part, text in self.parts}

    @property
    def used(self) -> tuple[int, ...]:
        """Places of the bands that take part."""
        names = {_plain(b): i for i, b in enumerate(self.bands)}
        return tuple(sorted({names[n] for e in self.expressions().values() for n in e.used}))

    def mix(
        self, values: Mapping[str, Floats], variance: Mapping[str, Floats] | None
    ) -> dict[str, tuple[Floats, Floats | None]]:
        """Part → (pixels, their variance).

        Parameters
        ----------
        values, variance
            Band → pixels of one shape; variance None = not known.

        Notes
        -----
        The variance is propagated by half the difference of the mixture one σ up and one σ down in each band:
        exact for sums, to first order for the rest.
        """
        values = {_plain(k): v for k, v in values.items()}
        spreads = None if variance is None else {_plain(k): v for k, v in variance.items()}
        out: dict[str, tuple[Floats, Floats | None]] = {}
        sigma: dict[str, Floats] | None = None
        for (part, text), expression in zip(self.parts, self.expressions().values(), strict=True):
            # Most mixtures are a band as it is.
            if text.strip() in values:
                out[part] = values[text.strip()], None if spreads is None else spreads[text.strip()]
                continue
            if spreads is not None and sigma is None:
                sigma = {k: np.sqrt(v) for k, v in spreads.items()}
            spread: Floats | None = None
            if sigma is not None:
                spread = np.zeros(next(iter(values.values())).shape)
                for name in sorted(expression.used):
                    up = expression.evaluate({**values, name: values[name] + sigma[name]})
                    down = expression.evaluate({**values, name: values[name] - sigma[name]})
                    spread += (0.5 * (up - down)) ** 2
            out[part] = np.asarray(expression.evaluate(values), np.float64), spread
        return out


def mixture(text: str, bands: Sequence[str]) -> Expression:
    """Parse a mixture of bands; a band whose name is no word (`L-Pro`) is written with _ (`L_Pro`)."""
    return Expression(text, {_plain(b): "" for b in bands}, functions=PIXEL_FUNCTIONS)


def _plain(band: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in band)


def _used(mixtures: Iterable[str]) -> set[str]:
    words = {w for m in mixtures for w in re.findall(r"(?<![\w.])[A-Za-z_]\w*", m)}
    return words - set(PIXEL_FUNCTIONS) - {"and", "or", "not"}


def _missing(mixtures: Iterable[str], bands: Sequence[str]) -> list[str]:
    """Names of bands there could be and are not; what is no band's name is left to the parser."""
    known = {_plain(b) for b in bands}
    named = {_plain(b) for p in PALETTES.values() for m in p.values() for b in _used([m])}
    return sorted(w for w in _used(mixtures) if w in named and w not in known)
