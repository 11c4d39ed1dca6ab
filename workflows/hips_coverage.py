"""What a HiPS says of itself besides its tiles: where it has any (a MOC), and facts that clients ask for."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.grid import Grid

MOC = "Moc.fits"


def describe(folder: Path, grid: Grid, *, order: int, side: int, ending: str) -> None:
    """Write the map of coverage, and complete the properties.

    Parameters
    ----------
    folder
        Of a HiPS whose tiles and properties are written.
    grid
        The canvas it was made of.
    order, side
        Finest order; pixels of a tile along a side.
    ending
        Of its tiles' names.

    Notes
    -----
    P. Fernique et al., HiPS – Hierarchical Progressive Survey 1.0 (IVOA 2017) and MOC 2.0 (IVOA 2022).
    """
    cells = np.array(
        sorted(int(p.stem.removeprefix("Npix")) for p in folder.glob(f"Norder{order}/Dir*/Npix*.{ending}")),
        np.int64,
    )
    write_moc(cells, order, folder / MOC)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    pixel = math.degrees(math.sqrt(math.pi / 3.0)) / 2**order / side
    told = {
        # Whoever publishes it says so himself.
        "hips_status": "private master unclonable",
        "hips_creation_date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "hips_order_min": "0",
        "hips_pixel_scale": f"{pixel:.6g}",
        "s_pixel_scale": f"{grid.pixel_scale / 3600.0:.6g}",
        "hips_estsize": str(math.ceil(size / 1000)),
        "moc_sky_fraction": f"{len(cells) / (12 * 4**order):.6g}",
        "moc_order": str(order),
    }
    path = folder / "properties"
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition("=")[0].strip() not in told]
    path.write_text("\n".join([*kept, *(f"{k:20s} = {v}" for k, v in told.items())]) + "\n", encoding="utf-8")


def write_moc(cells: NDArray[np.int64], order: int, path: Path) -> None:
    """Write a multi-order coverage map (MOC) of HEALPix cells, numbered in the nested way.

    Parameters
    ----------
    cells
        Rising, of one order.
    order
        Of the cells.
    path
        FITS file to be.
    """
    found, left = [], cells
    for coarse in range(order, -1, -1):
        parents, counts = np.unique(left >> 2, return_counts=True)
        whole = parents[counts == 4] if coarse else parents[:0]
        # A cell stands for its four children; what is left over keeps its own number.
        found.append(4 ** (coarse + 1) + left[~np.isin(left >> 2, whole)])
        left = whole
    numbers = np.sort(np.concatenate(found))
    table = fits.BinTableHDU.from_columns([fits.Column(name="UNIQ", format="K", array=numbers)])
    for key, value in {
        "MOCVERS": "2.0", "MOCDIM": "SPACE", "ORDERING": "NUNIQ", "COORDSYS": "C", "MOCORD_S": order,
        "PIXTYPE": "HEALPIX", "MOCORDER": order, "MOCTOOL": "skyloom",
    }.items():  # fmt: skip
        table.header[key] = value
    table.writeto(path)
