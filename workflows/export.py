"""Files for people and other programs: FITS, XISF, TIFF, PNG, JPEG, all written strip by strip."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.errors import ConfigError
from skyloom.ops.formats.write_xisf import Display
from skyloom.ops.frames import open_source
from skyloom.ops.grid import POINTED, Grid, pixel_to_sky
from skyloom.ops.pyramid import block_mean
from skyloom.ops.registry import Cost, Param, register, suggest
from skyloom.workflows.ahead import AHEAD, ahead
from skyloom.workflows.export_colour import (
    Picture,
    check_formats,
    clipped_share,
    write_colour_fits,
    write_colour_png,
    write_colour_tiff,
)
from skyloom.workflows.icc import profile_of
from skyloom.workflows.previews import colours_of, save_preview, shown_mosaic, shown_picture, sky_stretch
from skyloom.workflows.store import disk_errors

STRIP = 256
"""Rows read at a time: the inner chunk of the store, so that nothing is decoded twice."""

_FITS_BLOCK = 2880
_PROGRAM = f"skyloom {version('skyloom')}"
_VIEW = 2000
"""Longest side of the view of a plane whose sky is looked at (pixels)."""
_NO_DATA = 0
"""Value of pixels without data in integer pictures; those with data start at 1."""

Format = Literal["fits", "tiff", "png", "jpeg", "xisf"]

_FORMATS = ("fits", "tiff", "png", "jpeg", "xisf")
_SUFFIXES = {"fits": "fits", "tiff": "tif", "png": "png", "jpeg": "jpg", "xisf": "xisf"}
_ENDINGS: dict[str, Format] = {
    ".fits": "fits",
    ".fit": "fits",
    ".fts": "fits",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".xisf": "xisf",
}


@dataclass(frozen=True)
class Plane:
    """One band of one variable of a canvas, read by rows."""

    array: xr.DataArray
    """Lazy, (y, x)."""
    band: str
    source: str
    """Where its pixels are read (`skyloom.ops.arrays`): without dask between, which takes a third of the time."""

    @classmethod
    def of(cls, dataset: xr.Dataset, *, variable: str, band: str | None) -> Plane:
        """Pick a plane.

        Raises
        ------
        ConfigError
            If there is no such variable or band.
        """
        if variable not in dataset or dataset[variable].dims[-2:] != ("y", "x"):
            pictures = [str(v) for v in dataset.data_vars if dataset[v].dims[-2:] == ("y", "x")]
            if not pictures:
                raise ConfigError("this node has no image to export; choose a node with a canvas")
            raise ConfigError(f"no variable {variable!r} to export{suggest(variable, pictures)}")
        array = dataset[variable]
        if "band" not in array.dims:
            return cls(array, "", array_spec(dataset, variable))
        bands = [str(b) for b in dataset["band"].values]
        if band is None:
            if len(bands) > 1:
                raise ConfigError(f"there are {len(bands)} bands ({', '.join(bands)}); choose one with --band")
            band = bands[0]
        if band not in bands:
            raise ConfigError(f"no band {band!r}{suggest(band, bands)}")
        index = bands.index(band)
        return cls(array.isel(band=index), band, array_spec(dataset, variable, band=index))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        height, width = self.array.shape
        return height, width

    def strips(self, *, top_first: bool = False, rows: int = STRIP) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first row, pixels) of strips of full width; `top_first` runs from the last row down."""
        starts = range(0, self.shape[0], rows)
        source = open_source(self.source)

        def read(start: int) -> tuple[int, NDArray[Any]]:
            return start, source.read(slice(start, min(start + rows, self.shape[0])), slice(0, self.shape[1]))

        yield from ahead(read, reversed(starts) if top_first else starts)

    def small(self, factor: int) -> NDArray[np.float32]:
        """Mean over blocks of `factor` pixels, read strip by strip."""
        rows = max(factor, STRIP // factor * factor)
        out = np.empty(tuple(-(-n // factor) for n in self.shape), dtype=np.float32)
        for start, pixels in self.strips(rows=rows):
            block = block_mean(pixels, factor)
            out[start // factor : start // factor + len(block)] = block
        return out


def format_of(path: Path) -> Format:
    """File format by the ending.

    Raises
    ------
    ConfigError
        If the ending is none we write.
    """
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        raise ConfigError(f"{path}: unknown ending {ending!r}; use one of {', '.join(_ENDINGS)}")
    return _ENDINGS[ending]


def export_file(
    dataset: xr.Dataset,
    path: Path,
    *,
    variable: str = "image",
    band: str | None = None,
    max_side: int = 4096,
    depth: Literal[8, 16, 32] | None = None,
) -> None:
    """Write one plane of a canvas, or a picture of channels, to a file; the ending chooses the format.

    Parameters
    ----------
    dataset
        A node's result with a canvas.
    path
        FITS: float32 (counts as integers), WCS, units, history. TIFF: 16 bit, linear, scaled from the smallest
        to the largest value (in the description), 0 = no data. PNG, JPEG: 8 bit, autostretched, shrunk to
        `max_side`.
    variable, band
        Which plane; the band may be left out where there is one. A PNG of bands R, G and B is in colour.
    max_side
        Longest side of a PNG or JPEG (pixels).
    depth
        TIFF of 16 bits, or of 32: floats as they are, NaN = no data; PNG of a picture: 8 or 16. None: the
        format's usual.

    Raises
    ------
    ConfigError
        For an unknown ending, variable or band.
    CapacityError
        If the file cannot be written.
    """
    kind = format_of(path)
    colour = variable in dataset and "channel" in dataset[variable].dims
    with disk_errors(f"writing {path}"):
        # Under another name until it is whole: a run that is killed leaves no half file.
        partial = path.with_name(f".{path.name}.partial")
        try:
            if colour:
                _write_picture(dataset, partial, kind, variables=[variable], max_side=max_side, depth=depth)
            elif kind == "fits":
                write_fits(dataset, partial, variables=[variable], band=band)
            elif kind == "xisf":
                write_xisf_plane(dataset, partial, variable=variable, band=band)
            elif kind == "tiff":
                plane = Plane.of(dataset, variable=variable, band=band)
                write_tiff(plane, partial, floats=depth == 32, history=history_lines(dataset))
            else:
                pixels = shown_mosaic(dataset, variable=variable, band=band, max_side=max_side)
                texts = {"Software": _PROGRAM, "Comment": "\n".join(history_lines(dataset))}
                save_preview(pixels, partial, kind=kind, texts=texts)
            partial.replace(path)
        except FileNotFoundError:
            raise ConfigError(f"{path}: the folder {path.parent} does not exist") from None
        finally:
            partial.unlink(missing_ok=True)


def fits_header(dataset: xr.Dataset, plane: Plane) -> fits.Header:
    """Header of an exported plane: WCS, units, band and how it came about."""
    header = fits.Header()
    if "grid_wcs" in dataset.attrs:
        header.extend(_sky_cards(Grid.from_attrs(dataset.attrs)), update=True)
    unit = str(plane.array.attrs.get("units", dataset.attrs.get("units", "")))
    if unit:
        header["BUNIT"] = unit
    if plane.band:
        header["FILTER"] = plane.band
    header["CREATOR"] = f"skyloom {version('skyloom')}"
    for name in ("kernel_noise_factor",):
        if name in dataset.attrs:
            header["NOISEFAC"] = (float(dataset.attrs[name]), "rms of white noise after the resampling")
    if "noise_correlation" in dataset.attrs:
        header["NOISECOR"] = (float(dataset.attrs["noise_correlation"]), "rms of sums over areas, to white noise")
    for line in history_lines(dataset):
        header["HISTORY"] = line
    return header


def history_lines(dataset: xr.Dataset) -> list[str]:
    """How a result came about: the nodes and their parameters."""
    lines = []
    for entry in json.loads(dataset.attrs.get("provenance", "[]")):
        lines.append(f"{entry['node']} = {entry['op']} version {entry['version']} key {entry['key']}")
        for name, value in entry["parameters"].items():
            # A canvas is a whole header, and stands in that of the file anyway.
            text = json.dumps(value)
            lines.append(f"  {name} = {text if len(text) <= 200 else text[:200] + ' ...'}")
    return lines


def _sky_cards(grid: Grid) -> fits.Header:
    """Cards of where the canvas is: its WCS; without a place on the sky none, but what helps to find it."""
    if grid.on_sky:
        return grid.wcs.to_header(relax=True)
    cards = fits.Header()
    cards["WCSNAME"] = (str(grid.wcs.wcs.name), "no place on the sky is known: no WCS")
    if str(grid.wcs.wcs.name) == POINTED:
        height, width = grid.shape
        ra, dec = pixel_to_sky(grid.wcs, np.array([(width - 1) / 2]), np.array([(height - 1) / 2]))
        cards["RA"] = (round(float(ra[0]), 4), "[deg] mount's pointing, unverified")
        cards["DEC"] = (round(float(dec[0]), 4), "[deg] mount's pointing, unverified")
    cards["COMMENT"] = "Frames lie on each other by their stars; their place is not known."
    cards["COMMENT"] = "Solve this image, or run with --set locate.solve=catalogue."
    return cards


def write_fits(dataset: xr.Dataset, path: Path, *, variables: Sequence[str], band: str | None) -> None:
    """Write planes of one band as a FITS file: the first as primary image, the others as extensions."""
    with path.open("wb") as file:
        for number, variable in enumerate(variables):
            plane = Plane.of(dataset, variable=variable, band=band)
            header = fits_header(dataset, plane)
            dtype = np.dtype(plane.array.dtype)
            stored = dtype.newbyteorder(">") if dtype.kind == "f" else np.dtype(">i4")
            cards = fits.Header()
            if number == 0:
                cards["SIMPLE"] = True
            else:
                cards["XTENSION"] = "IMAGE"
            cards["BITPIX"] = -8 * stored.itemsize if stored.kind == "f" else 8 * stored.itemsize
            cards["NAXIS"] = 2
            cards["NAXIS1"], cards["NAXIS2"] = plane.shape[1], plane.shape[0]
            if number == 0:
                cards["EXTEND"] = len(variables) > 1
            else:
                cards["PCOUNT"], cards["GCOUNT"] = 0, 1
            cards["EXTNAME"] = variable.upper()
            if variable != "image":
                header.remove("BUNIT", ignore_missing=True)
                unit = plane.array.attrs.get("units")
                if unit:
                    header["BUNIT"] = str(unit)
            cards.extend(header, update=True)
            file.write(cards.tostring().encode("ascii", "replace"))
            size = 0
            for _, pixels in plane.strips():
                size += file.write(np.ascontiguousarray(pixels, dtype=stored).view(np.uint8).data)
            file.write(b"\0" * (-size % _FITS_BLOCK))


def value_range(plane: Plane) -> tuple[float, float]:
    """Smallest and largest valid value, read strip by strip; (0, 1) where there is none."""
    low, high = np.inf, -np.inf
    for _, pixels in plane.strips():
        good = pixels[np.isfinite(pixels)]
        if good.size:
            low, high = min(low, float(good.min())), max(high, float(good.max()))
    if not low < high:
        return (low, low + 1.0) if np.isfinite(low) else (0.0, 1.0)
    return low, high


def write_tiff(plane: Plane, path: Path, *, floats: bool = False, history: Sequence[str] = ()) -> None:
    """Write a plane as linear TIFF: 16 bit, nothing clipped, the scale in the description; or plain floats."""
    import tifffile

    dtype = np.float32 if floats else np.uint16
    low, step = 0.0, 1.0
    if floats:
        said = "skyloom; linear, NaN = no data"
    else:
        low, high = value_range(plane)
        step = (high - low) / 65534.0
        said = f"skyloom; value = {low!r} + {step!r} * (pixel - 1); 0 = no data"

    def scaled(pixels: NDArray[Any]) -> NDArray[Any]:
        if floats:
            return np.asarray(pixels, dtype=np.float32)
        numbers = pixels.astype(np.float64)
        numbers -= low
        numbers /= step
        numbers = np.rint(numbers, out=numbers)
        numbers += 1.0
        numbers[~np.isfinite(numbers)] = _NO_DATA
        return numbers.astype(np.uint16)

    def strips() -> Iterator[NDArray[Any]]:
        # Pictures start at the top, FITS at the bottom.
        carry = np.empty((0, plane.shape[1]), dtype=dtype)
        for _, pixels in plane.strips(top_first=True):
            carry = np.concatenate([carry, scaled(pixels[::-1])])
            while len(carry) >= STRIP:
                yield carry[:STRIP]
                carry = carry[STRIP:]
        if len(carry):
            yield carry

    big = plane.shape[0] * plane.shape[1] * np.dtype(dtype).itemsize > 2**31
    with tifffile.TiffWriter(path, bigtiff=big) as tiff:
        tiff.write(
            strips(),
            shape=plane.shape,
            dtype=dtype,
            photometric="minisblack",
            rowsperstrip=STRIP,
            description=_ascii([said, *history]),
            metadata=None,
            software=_PROGRAM,
        )


def _ascii(lines: Sequence[str]) -> str:
    """Lines as a TIFF may have them."""
    return "\n".join(lines).encode("ascii", "replace").decode()


def write_xisf_plane(dataset: xr.Dataset, path: Path, *, variable: str, band: str | None) -> None:
    """Write a plane as linear 32-bit XISF, or R, G and B as one colour image where no band is chosen."""
    from skyloom.ops.formats.write_xisf import write_xisf

    planes = [Plane.of(dataset, variable=variable, band=c) for c in colours_of(dataset, band)]
    # A view of some thousand pixels tells the sky.
    views = [p.small(max(1, -(-max(p.shape) // _VIEW))) for p in planes] if variable == "image" else []
    header = fits_header(dataset, planes[0])
    history = [str(line) for line in header.get("HISTORY", [])]
    cards = {c.keyword: (c.value, c.comment) for c in header.cards if c.keyword not in ("HISTORY", "COMMENT", "")}
    if len(planes) > 1:
        cards.pop("FILTER", None)

    def strips() -> Iterator[NDArray[Any]]:
        for parts in zip(*(p.strips() for p in planes), strict=True):
            pixels = [np.asarray(part, dtype=np.float32) for _, part in parts]
            yield pixels[0] if len(pixels) == 1 else np.stack(pixels)

    shape = planes[0].shape if len(planes) == 1 else (3, *planes[0].shape)
    write_xisf(
        path,
        strips(),
        shape=shape,
        cards=cards,
        history=history,
        creator=_PROGRAM,
        display=[display_of(view) for view in views],
    )


def display_of(view: NDArray[np.float32]) -> Display:
    """How PixInsight is to show a linear plane, from a smaller view of it."""
    stretch = sky_stretch(view)
    return Display(stretch.midtones, stretch.shadows, stretch.highlights)


def _export_cost(image: xr.Dataset, *, formats: list[str], max_side: int, **parameters: Any) -> Cost:
    pixels = float(np.prod([image.sizes[d] for d in ("y", "x")]))
    bands = image.sizes.get("band", image.sizes.get("channel", 1))
    size = {"fits": 12.0, "tiff": 2.0, "png": 0.5, "jpeg": 0.2, "xisf": 4.0}
    written = bands * pixels * sum(size.get(f, 0.0) for f in formats)
    small = min(pixels, float(max_side) ** 2)
    memory = STRIP * image.sizes["x"] * 4 * (8 + AHEAD) + small * (16 if {"png", "jpeg"} & set(formats) else 0)
    if "channel" in image.dims:
        memory = STRIP * image.sizes["x"] * bands * 4 * (12 + 2 * AHEAD)
    return Cost(
        work=np.array(bands * pixels / 1e6 * len(formats)),
        read=np.array(written),
        memory=np.array(memory),
        rate=10.0,
    )


@register(version=3, sink=True, cost=_export_cost)
def export(
    image: xr.Dataset,
    directory: Path,
    *,
    formats: list[str] = ["fits", "tiff", "png"],  # noqa: B006  (never changed; a list is what YAML has)
    max_side: Annotated[int, Param(unit="px", low=16, high=30000)] = 4096,
    depth: Literal[8, 16, 32] = 8,
) -> list[Path]:
    """Write each band as FITS (image, variance, count), TIFF, PNG, JPEG or XISF, and a colour PNG of R, G, B.

    A picture of channels is written in colour: stretched as PNG, JPEG and 16-bit TIFF with a colour profile
    (picture.png), linear as FITS, XISF and float TIFF (linear.fits).

    Parameters
    ----------
    image
        A result with a canvas.
    directory
        Where the files go.
    formats
        Which of fits, tiff, png, jpeg, xisf. Change it to what the next program reads: xisf for PixInsight, tiff
        for Photoshop and GIMP.
    max_side
        Longest side of a PNG or JPEG; a larger canvas is shrunk for it. Change it to more for prints; the FITS,
        XISF and TIFF files have the full size always.
    depth
        Bits of each channel in the PNG of a stretched picture (8 or 16; 32: 16); 32 makes a TIFF of floats of it
        and of bands. A JPEG has 8. Change it to 16 or 32 where the picture is edited further.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ConfigError
        For an unknown format, or a PNG or JPEG of a linear picture.
    """
    for name in formats:
        if name not in _FORMATS:
            raise ConfigError(f"formats: {name!r}{suggest(name, _FORMATS)}")
    if "channel" in image.dims:
        return _export_colour(image, directory, formats=formats, max_side=max_side, depth=depth)
    if not image.attrs.get("linear", True):
        raise ConfigError("this mosaic is stretched, band by band: make channels of it first, then stretch those")
    bands = [str(b) for b in image["band"].values]
    planes = [v for v in ("image", "variance", "count") if v in image]
    made = []
    for band in bands:
        stem = "mosaic" if band == "none" else f"mosaic_{_file_part(band)}"
        for name in formats:
            path = directory / f"{stem}.{_SUFFIXES[name]}"
            if name == "fits":
                partial = path.with_name(f".{path.name}.partial")
                write_fits(image, partial, variables=planes, band=band)
                partial.replace(path)
            else:
                export_file(image, path, band=band, max_side=max_side, depth=32 if depth == 32 else None)
            made.append(path)
    for name in [f for f in ("png", "jpeg") if f in formats and {"R", "G", "B"} <= set(bands)]:
        path = directory / f"mosaic.{_SUFFIXES[name]}"
        export_file(image, path, max_side=max_side)
        made.append(path)
    return made


def _export_colour(
    image: xr.Dataset, directory: Path, *, formats: list[str], max_side: int, depth: Literal[8, 16, 32]
) -> list[Path]:
    """Write a picture of channels."""
    linear = bool(image.attrs.get("linear", True))
    check_formats(linear, formats)
    planes = [v for v in ("image", "variance") if v in image]
    made = []
    for name in formats:
        path = directory / f"{'linear' if linear else 'picture'}.{_SUFFIXES[name]}"
        partial = path.with_name(f".{path.name}.partial")
        with disk_errors(f"writing {path}"):
            _write_picture(image, partial, name, variables=planes, max_side=max_side, depth=depth)
            partial.replace(path)
        made.append(path)
    return made


def _write_picture(
    image: xr.Dataset,
    path: Path,
    kind: str,
    *,
    variables: list[str],
    max_side: int,
    depth: Literal[8, 16, 32] | None,
) -> None:
    """Write a picture of channels as one file."""
    picture = Picture.of(image, variables[0])
    check_formats(picture.linear, [kind])
    header = fits_header(image, Plane(image[variables[0]][0], "", ""))
    below, above = clipped_share(image)
    if np.isfinite(below):
        header["CLIPLOW"] = (round(below, 8), "fraction of pixels below black in a channel")
        header["CLIPHIGH"] = (round(above, 8), "fraction of pixels above white in a channel")
    palette = image.attrs.get("palette", "")
    if palette:
        header["HISTORY"] = f"channels: {palette}"
    said = f"channels: {palette}"
    if np.isfinite(below):
        said += f"; clipped: {below:.3%} below black, {above:.3%} above white"
    texts = {"Software": _PROGRAM, "Comment": "\n".join([said, *history_lines(image)])}
    if kind == "png":
        write_colour_png(picture, path, depth=16 if depth in (16, 32) else 8, max_side=max_side, texts=texts)
    elif kind == "jpeg":
        save_preview(shown_picture(picture, max_side=max_side), path, kind="jpeg", texts=texts)
    elif kind == "tiff":
        write_colour_tiff(
            picture,
            path,
            depth=32 if depth == 32 else 16,
            description=_ascii([f"skyloom; {said}; 0 = no data", *history_lines(image)]),
        )
    elif kind == "xisf":
        _write_colour_xisf(picture, path, header)
    else:
        write_colour_fits(image, path, header, variables=variables)


def _write_colour_xisf(picture: Picture, path: Path, header: fits.Header) -> None:
    from skyloom.ops.formats.write_xisf import write_xisf

    history = [str(line) for line in header.get("HISTORY", [])]
    cards = {c.keyword: (c.value, c.comment) for c in header.cards if c.keyword not in ("HISTORY", "COMMENT", "")}
    channels, height, width = picture.shape
    strips = (np.asarray(p if channels == 3 else p[0], dtype=np.float32) for p in picture.strips())
    write_xisf(
        path,
        strips,
        shape=(3, height, width) if channels == 3 else (height, width),
        cards=cards,
        history=history,
        creator=_PROGRAM,
        # What is stretched is shown as it is, and is between 0 and 1.
        display=[display_of(view) for view in picture.views(_VIEW)] if picture.linear else (),
        bounds=None if picture.linear else (0.0, 1.0),
        profile=b"" if picture.linear else profile_of(channels),
    )


def _file_part(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-+" else "_" for c in text)
