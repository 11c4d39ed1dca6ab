"""Frames as files: what the runner writes when a person asks for the calibrated (or debayered) frames."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, open_source
from skyloom.ops.grid import parse_wcs
from skyloom.ops.registry import Cost, register

STRIP = 256
"""Rows read and written at a time."""
_BLOCK = 2880
_PIXEL_BYTES = 60.0
_NUMBERS = {
    "EXPTIME": ("exposure", "s"),
    "EGAIN": ("gain", "electrons per unit"),
    "SATURATE": ("saturation", "level of saturation"),
    "GAIN": ("gain_setting", "setting of the camera"),
    "OFFSET": ("offset_setting", "setting of the camera"),
    "CCD-TEMP": ("temperature", "degrees C"),
    "RDNOISE": ("read_noise", "electrons"),
    "XPIXSZ": ("pixel_size", "micrometres"),
    "FOCALLEN": ("focal_length", "mm"),
}
_TEXTS = {
    "FILTER": "band",
    "DATE-OBS": "date",
    "INSTRUME": "camera",
    "TELESCOP": "telescope",
    "BAYERPAT": "bayer",
    "BUNIT": "units",
}


def frame_header(session: xr.Dataset, index: int) -> fits.Header:
    """FITS cards of a frame: its facts, its WCS and how it came about."""
    row = session.isel(frame=index)
    header = fits.Header()
    header["IMAGETYP"] = "LIGHT"
    facts = json.loads(str(row["facts"].values)) if "facts" in row else {}
    if facts.get("object"):
        header["OBJECT"] = _ascii(facts["object"][0])
    for keyword, name in _TEXTS.items():
        text = str(row[name].values) if name in row else ""
        if text and text != "none":
            header[keyword] = _ascii(text)
    for keyword, (name, comment) in _NUMBERS.items():
        if name in row and math.isfinite(float(row[name])):
            header[keyword] = (float(row[name]), comment)
    wcs = str(row["wcs"].values)
    if wcs:
        header.extend(parse_wcs(wcs).to_header(relax=True), update=True)
    header["CREATOR"] = f"skyloom {version('skyloom')}"
    if facts.get("calibrated"):
        header["HISTORY"] = _ascii(str(facts["calibrated"][0]))
    for entry in json.loads(session.attrs.get("provenance", "[]")):
        header["HISTORY"] = f"{entry['node']} = {entry['op']} version {entry['version']} key {entry['key']}"
    return header


def _ascii(text: Any) -> str:
    return str(text).encode("ascii", "replace").decode("ascii")


def file_names(session: xr.Dataset) -> list[str]:
    """Name of each frame's file, without folders and endings: unique, safe on any file system."""
    names: list[str] = []
    taken: set[str] = set()
    for name in session["name"].values.tolist():
        plain = re.sub(
            r"\.(fits?|fts|fz|gz|bz2|xisf|tiff?|[a-z0-9]{3})(?=$|\s|\.)", "", str(name), flags=re.IGNORECASE
        )
        stem = re.sub(r"[^0-9A-Za-z.+-]+", "_", plain).strip("_") or "frame"
        unique, number = stem, 2
        while unique.lower() in taken:
            unique, number = f"{stem}_{number}", number + 1
        taken.add(unique.lower())
        names.append(unique)
    return names


def _planes(
    source: FrameSource, *, variance: bool, flags: bool
) -> list[tuple[str, str, Callable[..., NDArray[Any]]]]:
    """Name, stored type and reader of each image of a file."""
    planes: list[tuple[str, str, Callable[..., NDArray[Any]]]] = [("IMAGE", ">f4", source.read)]
    for wanted, name, dtype in ((variance, "variance", ">f4"), (flags, "flags", "u1")):
        if wanted:
            read = getattr(source, name, None)
            if read is None:
                raise DataError(f"the frames have no {name}: only calibrated ones do")
            planes.append((name.upper(), dtype, read))
    return planes


def write_frame(session: xr.Dataset, index: int, path: Path, *, variance: bool, flags: bool) -> None:
    """Write a frame as FITS, strip by strip; the file appears when it is complete."""
    source = open_source(str(session["source"].values[index]))
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        planes = _planes(source, variance=variance, flags=flags)
        for number, (name, dtype, read) in enumerate(planes):
            header = fits.Header()
            if number == 0:
                header["SIMPLE"] = True
            else:
                header["XTENSION"] = "IMAGE"
            stored = np.dtype(dtype)
            header["BITPIX"] = -32 if stored.kind == "f" else 8
            header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, source.shape[1], source.shape[0]
            if number == 0:
                header["EXTEND"] = len(planes) > 1
                header.extend(frame_header(session, index), update=True)
            else:
                header["PCOUNT"], header["GCOUNT"], header["EXTNAME"] = 0, 1, name
            file.write(header.tostring().encode("ascii", "replace"))
            size = 0
            for rows in _strips(source.shape[0]):
                pixels = read(rows, slice(0, source.shape[1]))
                size += file.write(np.ascontiguousarray(pixels, dtype=stored).tobytes())
            file.write(b"\0" * (-size % _BLOCK))
    partial.replace(path)


def _strips(height: int) -> Iterator[slice]:
    for start in range(0, height, STRIP):
        yield slice(start, min(start + STRIP, height))


def _cost(session: xr.Dataset, **_: Any) -> Cost:
    pixels = (session["height"].values * session["width"].values).astype(np.float64)
    rows = STRIP * float(session["width"].values.max(initial=0)) * _threads()
    return Cost(
        work=np.array(pixels.sum() / 1e6),
        read=np.array(4.0 * pixels.sum()),
        memory=np.array(rows * _PIXEL_BYTES),
        rate=30.0,
    )


def _threads() -> int:
    return min(os.cpu_count() or 1, 4)


@register(version=1, sink=True, cost=_cost)
def write_frames(
    session: xr.Dataset, directory: Path, *, variance: bool = False, flags: bool = False
) -> list[Path]:
    """Write every frame as a FITS file, as it leaves the calibration.

    Parameters
    ----------
    session
        Frames from `calibrate` or `debayer`.
    directory
        Gets a folder `frames`.
    variance
        Add an extension with the variance of each pixel. Change it where the next program takes uncertainties.
    flags
        Add an extension with what is wrong with each pixel (1 hot, 2 cold, 4 saturated, 8 cosmic ray, 16 no data).
        Change it where the next program takes masks.

    Returns
    -------
    list of Path
        The files.
    """
    folder = directory / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.fits" for name in file_names(session)]
    with ThreadPoolExecutor(_threads()) as pool:
        jobs = [
            pool.submit(write_frame, session, index, path, variance=variance, flags=flags)
            for index, path in enumerate(paths)
        ]
        for job in jobs:
            job.result()
    return paths
