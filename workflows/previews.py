"""Previews of mosaics and pictures: PNG and JPEG of 8 bits, shrunk so that they can be held."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.stretch import Stretch, autostretch
from skyloom.workflows.export_colour import Picture
from skyloom.workflows.icc import profile_of

QUALITY = 92
"""Of a JPEG."""
JPEG_SIDE = 65500
"""Longest side a JPEG may have (pixels)."""
_ROWS = 256
_COMMENT = 60_000
"""Bytes of a JPEG's comment at most."""
_NO_DATA = 0


def colours_of(dataset: xr.Dataset, band: str | None) -> list[str | None]:
    """Bands of a picture of a mosaic: R, G and B where they are all there and none is chosen."""
    bands = [str(b) for b in dataset["band"].values] if "band" in dataset.dims else []
    return ["R", "G", "B"] if band is None and {"R", "G", "B"} <= set(bands) else [band]


def sky_stretch(small: NDArray[np.float32]) -> Stretch:
    """Stretch of a plane from a smaller view of it."""
    # Every so many pixels tell the sky as well as all of them do.
    return autostretch(small[:: max(1, small.shape[0] // 1000), :: max(1, small.shape[1] // 1000)])


def shown_mosaic(dataset: xr.Dataset, *, variable: str, band: str | None, max_side: int) -> NDArray[np.uint8]:
    """Pixels of a picture of a linear mosaic, autostretched, the top row first, in colour where it has R, G and B.

    Returns
    -------
    ndarray
        Shape (rows, columns) or (rows, columns, 3): 1…255, 0 = no data.
    """
    from skyloom.workflows.export import Plane

    channels = []
    for colour in colours_of(dataset, band):
        plane = Plane.of(dataset, variable=variable, band=colour)
        small = plane.small(max(1, -(-max(plane.shape) // max_side)))
        stretch = sky_stretch(small)
        channel = np.zeros(small.shape, dtype=np.uint8)
        for start in range(0, len(small), _ROWS):
            rows = slice(start, start + _ROWS)
            shades = stretch.apply(small[rows])
            # 1…255 hold data, 0 none, as in the TIFF.
            good = np.isfinite(shades)
            channel[rows][good] = np.rint(1 + shades[good] * 254).astype(np.uint8)
        channels.append(channel)
    image = channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)
    if len(channels) > 1:
        # Where a band is missing there is no colour, only a false one.
        image[(image == _NO_DATA).any(axis=-1)] = _NO_DATA
    return np.ascontiguousarray(image[::-1])


def shown_picture(picture: Picture, *, max_side: int) -> NDArray[np.uint8]:
    """The same of a stretched picture, as it is."""
    factor = max(1, -(-max(picture.shape[1:]) // max_side))
    rows = np.concatenate(list(picture.shown(8, factor=factor)))
    return np.ascontiguousarray(rows if rows.shape[2] == 3 else rows[..., 0])


def save_preview(
    pixels: NDArray[np.uint8], path: Path, *, kind: Literal["png", "jpeg"], texts: dict[str, str]
) -> None:
    """Write 8-bit pixels as PNG or JPEG, with their colour profile.

    Parameters
    ----------
    pixels
        Shape (rows, columns) or (rows, columns, 3).
    path
        File to be.
    kind
        Format.
    texts
        Keyword → text; a JPEG has one comment for all.

    Raises
    ------
    ConfigError
        If a JPEG would be too large.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    image = Image.fromarray(pixels)
    options: dict[str, Any] = {"icc_profile": profile_of(pixels.shape[2] if pixels.ndim == 3 else 1)}
    if kind == "png":
        info = PngInfo()
        for keyword, text in texts.items():
            info.add_text(keyword, text)
        image.save(path, format="PNG", compress_level=3, pnginfo=info, **options)
        return
    if max(pixels.shape[:2]) > JPEG_SIDE:
        raise ConfigError(f"a JPEG has at most {JPEG_SIDE} pixels a side; set a smaller max_side")
    comment = "\n".join(texts.values()).encode("utf-8", "replace")[:_COMMENT]
    image.save(path, format="JPEG", quality=QUALITY, subsampling=0, comment=comment, **options)
