"""Accessors of xarray Datasets: `sky` of results with a canvas, `session` of tables of frames."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.wcs import WCS

from skyloom.ops.arrays import LOCATION
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import WCS_LOCK, Grid, sky_to_pixel
from skyloom.ops.registration.target import parse_target
from skyloom.ops.registry import suggest
from skyloom.ops.stretch import BACKGROUND, autostretch
from skyloom.workflows import notebook
from skyloom.workflows.evaluate import is_session

SHOWN = 1500
"""Longest side of a quick look (pixels)."""
COLOURS = ("R", "G", "B")
_accessor: Any = xr.register_dataset_accessor


@_accessor("sky")
class Sky:
    """A canvas on the sky: its WCS, windows of it, a stretch and quick looks at it.

    Parameters
    ----------
    dataset
        A result with a canvas, such as that of `integrate`.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def grid(self) -> Grid:
        """The canvas.

        Raises
        ------
        DataError
            If the Dataset has none, or was cut without `window`, so that nothing says which part it is.
        """
        grid = Grid.from_attrs(self._dataset.attrs)
        sizes = (self._dataset.sizes.get("y"), self._dataset.sizes.get("x"))
        if sizes != grid.shape:
            raise DataError(
                f"this Dataset of {sizes[0]} × {sizes[1]} px is a part of a canvas of {grid.shape[0]} × "
                f"{grid.shape[1]}; cut it with .sky.window(rows, columns), which keeps the WCS"
            )
        return grid

    @property
    def wcs(self) -> WCS:
        """Celestial WCS of the canvas (a copy; x first)."""
        with WCS_LOCK:
            return self.grid.wcs.deepcopy()

    def window(self, rows: slice, columns: slice) -> xr.Dataset:
        """Return a part of the canvas with the WCS that belongs to it; nothing is computed.

        Parameters
        ----------
        rows, columns
            Slices of pixels, without a step.
        """
        grid = self.grid
        spans = [s.indices(n) for s, n in zip((rows, columns), grid.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in spans):
            raise ConfigError(f"window({rows}, {columns}) is no part of a canvas of {grid.shape} px")
        (top, bottom, _), (left, right, _) = spans
        wcs = self.wcs
        wcs.wcs.crpix = wcs.wcs.crpix - [left, top]
        header = str(wcs.to_header(relax=True).tostring(sep="\n", endcard=False, padding=False))
        part = self._dataset.isel(y=slice(top, bottom), x=slice(left, right))
        part = part.assign_attrs(Grid(header, (bottom - top, right - left), grid.tile).to_attrs())
        # The store's array is the whole canvas.
        part.encoding = {k: v for k, v in self._dataset.encoding.items() if k != LOCATION}
        return part

    def cutout(self, place: str, size: float) -> xr.Dataset:
        """Return the part of the canvas around a place.

        Parameters
        ----------
        place
            "10.68 +41.27" (degrees), "00:42:44 +41:16:09", or an object of Messier's catalogue ("M 31").
        size
            Side of the square (arcmin).

        Raises
        ------
        DataError
            If the place is not on the canvas.
        """
        grid = self.grid
        ra, dec = parse_target(place)
        x, y = (float(v[0]) for v in sky_to_pixel(grid.wcs, np.array([ra]), np.array([dec])))
        half = max(1, round(30.0 * size / grid.pixel_scale))
        if not (0 <= x < grid.shape[1] and 0 <= y < grid.shape[0]):
            raise DataError(f"{place} is not on this canvas of {grid.shape[1]} × {grid.shape[0]} px")
        row, column = round(y), round(x)
        return self.window(
            slice(max(0, row - half), row + half + 1), slice(max(0, column - half), column + half + 1)
        )

    def plane(self, variable: str = "image", band: str | None = None) -> xr.DataArray:
        """Return one band (or channel) of a variable, over y and x.

        Raises
        ------
        ConfigError
            If there is no such variable or band, or a band must be chosen.
        """
        if variable not in self._dataset:
            raise ConfigError(f"no variable {variable!r}{suggest(variable, map(str, self._dataset.data_vars))}")
        array = self._dataset[variable]
        dim = next((d for d in ("band", "channel") if d in array.dims), None)
        if dim is None:
            return array
        names = [str(n) for n in array[dim].values]
        if band is None:
            if len(names) > 1:
                raise ConfigError(f"there are {len(names)} of {dim} ({', '.join(names)}); choose one")
            band = names[0]
        if band not in names:
            raise ConfigError(f"no {dim} {band!r}{suggest(band, names)}")
        return array.isel({dim: names.index(band)})

    def small(self, array: xr.DataArray, max_side: int = SHOWN) -> xr.DataArray:
        """Return a smaller view: means over blocks of pixels, NaN ignored; computed block by block."""
        factor = math.ceil(max(array.sizes["y"], array.sizes["x"]) / max_side)
        if factor <= 1:
            return array.astype(np.float32).compute()
        blocks: Any = array.astype(np.float32).coarsen(y=factor, x=factor, boundary="pad")
        return xr.DataArray(blocks.mean()).compute()

    def stretch(
        self,
        variable: str = "image",
        band: str | None = None,
        *,
        linked: bool = False,
        background: float = BACKGROUND,
        max_side: int = SHOWN,
    ) -> xr.DataArray:
        """Stretch a linear image for the eye (PixInsight's STF autostretch); a stretched picture stays as it is.

        Parameters
        ----------
        variable
            Name of the image.
        band
            Which band or channel; None: the only one, or R, G and B in colour where they are all there.
        linked
            One stretch for the three colours, so that their balance stays; else each its own.
        background
            Where the median lands, 0…1.
        max_side
            Longest side; a larger canvas is shrunk (pixels).

        Returns
        -------
        DataArray
            Over (y, x), or (y, x, channel): 0…1, NaN where there is no data.
        """
        small = [self.small(plane, max_side) for plane in self._planes(variable, band)]
        if self._dataset.attrs.get("linear", True) in (True, "True"):
            pixels = [s.values for s in small]
            if linked:
                curves = [autostretch(np.stack(pixels), background=background)] * len(pixels)
            else:
                curves = [autostretch(p, background=background) for p in pixels]
            small = [s.copy(data=c.apply(s.values)) for s, c in zip(small, curves, strict=True)]
        if len(small) == 1:
            return small[0]
        return xr.concat([s.drop_vars(["band", "channel"], errors="ignore") for s in small], "channel").transpose(
            "y", "x", "channel"
        )

    def _planes(self, variable: str, band: str | None) -> list[xr.DataArray]:
        if band is None and variable in self._dataset:
            array = self._dataset[variable]
            dim = next((d for d in ("band", "channel") if d in array.dims), None)
            if dim is not None and set(COLOURS) <= {str(n) for n in array[dim].values}:
                return [self.plane(variable, c) for c in COLOURS]
        return [self.plane(variable, band)]

    def plot(
        self,
        variable: str = "image",
        band: str | None = None,
        *,
        stretch: Literal["auto", "linear"] = "auto",
        grid: bool = False,
        axes: Any = None,
        max_side: int = SHOWN,
        **options: Any,
    ) -> Any:
        """Quick look with RA and Dec along the axes.

        Parameters
        ----------
        variable, band, max_side
            As for `stretch`.
        stretch
            auto: stretched for the eye; linear: values as they are with a colour bar (variance, weight, count).
        grid
            Draw lines of equal RA and Dec.
        axes
            `WCSAxes` to draw on; None: new ones.
        **options
            For matplotlib's `imshow`.

        Returns
        -------
        astropy.visualization.wcsaxes.WCSAxes

        Raises
        ------
        ConfigError
            If matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ImportError:
            raise ConfigError("a plot needs matplotlib; install it with: pip install 'skyloom[plot]'") from None
        if stretch == "auto":
            image = self.stretch(variable, band, max_side=max_side).clip(0.0, 1.0)
            options = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0} | options
        else:
            image = self.small(self.plane(variable, band), max_side)
        factor = math.ceil(max(self._dataset.sizes["y"], self._dataset.sizes["x"]) / max_side)
        if axes is None:
            figure = pyplot.figure(layout="constrained")
            axes = figure.add_subplot(projection=self._shrunk(factor))
        shown = axes.imshow(image.values, origin="lower", interpolation="nearest", **options)
        if stretch == "linear":
            units = self._dataset[variable].attrs.get("units") or (
                self._dataset.attrs.get("units", "") if variable == "image" else ""
            )
            axes.figure.colorbar(shown, ax=axes, label=f"{variable} ({units})" if units else variable)
        on_sky = self.grid.on_sky
        axes.coords[0].set_axislabel("RA" if on_sky else "relative, east")
        axes.coords[1].set_axislabel("Dec" if on_sky else "relative, north")
        if grid:
            axes.coords.grid(color="white", alpha=0.4)
        return axes

    def _shrunk(self, factor: int) -> WCS:
        """WCS of a view of blocks of `factor` pixels."""
        wcs = self.wcs
        # The middle of the first block is at (factor - 1) / 2 from zero.
        wcs.wcs.crpix = (wcs.wcs.crpix - 1.0 - (factor - 1) / 2.0) / factor + 1.0
        if wcs.wcs.has_cd():
            wcs.wcs.cd = wcs.wcs.cd * factor
        else:
            wcs.wcs.cdelt = wcs.wcs.cdelt * factor
        return wcs

    def __repr__(self) -> str:
        grid = self.grid
        return (
            f'<canvas of {grid.shape[1]} × {grid.shape[0]} px at {grid.pixel_scale:.3f}"/px'
            f"{'' if grid.on_sky else ', without a place on the sky'}>"
        )


@_accessor("session")
class SessionTable:
    """A table of frames that shows itself as one.

    Parameters
    ----------
    dataset
        The result of `ingest`, `calibrate`, `debayer` or `place`.

    Raises
    ------
    DataError
        If it is no table of frames.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        if not is_session(dataset):
            raise DataError("this Dataset is no table of frames")
        self.dataset = dataset

    def __len__(self) -> int:
        return self.dataset.sizes["frame"]

    def __repr__(self) -> str:
        return f"<session of {notebook.session_line(self.dataset)}>"

    def _repr_html_(self) -> str:
        return notebook.session_html(self.dataset)
