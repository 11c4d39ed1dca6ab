"""A user's table of star colours."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import xarray as xr

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.registry import register

_RA = ("ra", "ra_deg", "raj2000", "ra_icrs", "_raj2000")
_DEC = ("dec", "de", "dec_deg", "dej2000", "de_icrs", "_dej2000")
_INDEX = ("bp_rp", "bp-rp", "b-v", "b_v", "bv", "bprp", "colour", "color", "index")


@register(version=1)
def star_catalogue(files: list[str], *, table: str, colour: str = "auto") -> xr.Dataset:
    """Read a table of star colours: a CSV file with ra, dec (degrees) and a colour such as B-V or BP-RP.

    Parameters
    ----------
    files
        The workflow's files; not looked at.
    table
        Path of the CSV file; its first line names the columns. Change it to your own table; there is none by
        default.
    colour
        Name of the colour's column; auto: bp_rp, b-v or what looks like it. Change it where the table has several
        colours.

    Returns
    -------
    xarray.Dataset
        `ra`, `dec` (degrees) and `index` (mag) over `star`; rows without all three are left out.

    Raises
    ------
    ConfigError
        If there is no such file or column.
    DataError
        If it has no star.
    """
    path = Path(table)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigError(f"table = {table}: cannot be read ({failure})") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = list(csv.reader(lines))
    if not rows:
        raise DataError(f"{table}: is empty")
    header = [c.strip().lower() for c in rows[0]]
    wanted = (_RA, _DEC, _INDEX if colour == "auto" else (colour.strip().lower(),))
    places = []
    for names in wanted:
        place = next((header.index(n) for n in names if n in header), None)
        if place is None:
            raise ConfigError(f"{table}: no column {' or '.join(names[:3])}; there is: {', '.join(rows[0])}")
        places.append(place)
    values = np.array([_numbers(row, places) for row in rows[1:]], dtype=np.float64).reshape(-1, 3)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        raise DataError(f"{table}: no row has ra, dec and a colour")
    return xr.Dataset({n: ("star", values[:, i]) for i, n in enumerate(("ra", "dec", "index"))})


def _numbers(row: list[str], places: list[int]) -> list[float]:
    try:
        return [float(row[p]) for p in places]
    except (ValueError, IndexError):
        return [float("nan")] * len(places)
