"""What was done to the colours of a picture, a line each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr


def colour_lines(results: Mapping[str, xr.Dataset]) -> list[str]:
    """Sum up linear fit, background and white balance.

    Parameters
    ----------
    results
        Op → its result, as many as there are.

    Returns
    -------
    list of str
        Lines for people.
    """
    lines = []
    if "linear_fit" in results:
        lines.append(_fit(results["linear_fit"]))
    if "neutralize" in results:
        found = results["neutralize"]
        levels = _by_band(found, found["level"].values, "{:.5g}")
        lines.append(f"neutralize: sky from {int(found['cells'].values)} dark cells, levels {levels}")
    if "white_balance" in results:
        found = results["white_balance"]
        stars = int(found["stars"].values)
        source = f"{stars} stars" if stars else "the white that was given"
        lines.append(f"white balance: from {source}, factors {_by_band(found, found['factor'].values, '{:.3f}')}")
    return lines


def _fit(table: xr.Dataset) -> str:
    reference = str(table.attrs.get("reference", ""))
    bands = [str(b) for b in table["band"].values]
    points = dict(zip(bands, table["points"].values.tolist(), strict=True))
    weak = [b for b in bands if points[b] == 0 and b != reference]
    text = f"linear fit: to {reference}, scales {_by_band(table, table['scale'].values, '{:.3f}')}"
    return text + (f"; too little signal in {', '.join(weak)}: noise levels made equal" if weak else "")


def _by_band(table: xr.Dataset, values: np.ndarray, form: str) -> str:
    return ", ".join(f"{b} {form.format(v)}" for b, v in zip(table["band"].values, values.tolist(), strict=True))
