"""How good each frame is, in the measures people know, and which are good enough."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from skyloom.ops.expression import Expression
from skyloom.ops.registry import Cost, register
from skyloom.ops.solve_graph import solved_arrays
from skyloom.ops.threads import one_blas_thread

Floats = NDArray[np.float64]

MEASURES: dict[str, str] = {
    "fwhm": "px",
    "eccentricity": "",
    "stars": "",
    "noise": "adu",
    "background": "adu",
    "snr": "",
    "psf_signal": "",
    "psf_snr": "",
    "valid": "",
    "exposure": "s",
    "temperature": "",
}
"""Name → unit of what a rule may use."""
_TENTH = 1.822615  # full width at a tenth of the maximum over that at half, of a Gaussian


def frame_measures(stars: Floats, summary: Floats) -> dict[str, Floats]:
    """Measures of frames.

    Parameters
    ----------
    stars
        (frame, star, quantity) of a measurement.
    summary
        (frame, quantity) of a measurement.

    Returns
    -------
    dict
        Over frames: `fwhm` (px), `eccentricity` (√(1 − b²/a²)), `stars`, `noise` and `background` (units of the
        pixels), `snr` (median of the stars'), `psf_signal`, `psf_snr`, `valid` (fraction of the pixels).

    Notes
    -----
    With F the flux of a star, F̄ = F over the area of its profile down to a tenth, σ the noise, M the background:
    psf_signal = ΣF·ΣF̄ / (σ·M), which falls with haze, blur and sky light, and psf_snr = (ΣF)² / σ² — PixInsight's
    PSFSignalWeight and PSFSNR without the constants that fit them to images of 0…1.
    """
    flux, error, fwhm, ellipticity, flag = (stars[..., k] for k in (2, 3, 4, 5, 8))
    good = np.isfinite(flux) & (flux > 0) & (np.nan_to_num(flag, nan=7.0) == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        area = 0.25 * np.pi * (_TENTH * fwhm) ** 2 * np.clip(1.0 - ellipticity, 0.05, 1.0)
        total = np.where(good, flux, 0.0).sum(axis=1)
        mean = np.where(good & (area > 0), flux / area, 0.0).sum(axis=1)
        ratio = np.where(good, flux / error, np.nan)
        noise, background = summary[:, 1], summary[:, 0]
        axis = 1.0 - np.clip(summary[:, 3], 0.0, 1.0)
        signal = total * mean / (noise * np.abs(background))
        psf_snr = (total / noise) ** 2
    snr = np.full(len(ratio), np.nan)
    for i in np.flatnonzero(good.any(axis=1)).tolist():
        snr[i] = float(np.nanmedian(ratio[i]))
    known = np.isfinite(noise) & (noise > 0)
    return {
        "fwhm": summary[:, 2].copy(),
        "eccentricity": np.sqrt(1.0 - axis**2),
        "stars": summary[:, 4].copy(),
        "noise": noise.copy(),
        "background": background.copy(),
        "snr": snr,
        "psf_signal": np.where(known, signal, np.nan),
        "psf_snr": np.where(known, psf_snr, np.nan),
        "valid": summary[:, 5].copy(),
    }


def judge(rule: str, measures: dict[str, Floats]) -> tuple[NDArray[np.bool_], list[str]]:
    """Apply a rule.

    Parameters
    ----------
    rule
        Over `MEASURES`; "" approves all.
    measures
        Name → (frames,).

    Returns
    -------
    approved
        (frames,)
    reason
        For each frame left out, the condition it fails and its value.
    """
    count = len(next(iter(measures.values())))
    reason = [""] * count
    if not rule.strip():
        return np.ones(count, np.bool_), reason
    approved = Expression(rule, MEASURES).evaluate(measures).astype(np.bool_)
    parts = Expression(rule, MEASURES).parts()
    passed = [p.evaluate(measures).astype(np.bool_) for p in parts]
    for i in np.flatnonzero(~approved).tolist():
        failed = next((p for p, ok in zip(parts, passed, strict=True) if not ok[i]), parts[0])
        values = ", ".join(f"{n} = {measures[n][i]:.4g}{_space(MEASURES[n])}" for n in sorted(failed.used))
        reason[i] = f"not approved: {failed.text} is not so ({values})"
    return approved, reason


def _space(unit: str) -> str:
    return f" {unit}" if unit else ""


@one_blas_thread
def _task(stars: Floats, summary: Floats, known: dict[str, Floats], rule: str) -> dict[str, NDArray[Any]]:
    measures = {**frame_measures(np.asarray(stars), np.asarray(summary, dtype=np.float64)), **known}
    approved, reason = judge(rule, measures)
    return {**measures, "use": approved, "reason": np.array([r[:200] for r in reason], dtype="<U200")}


def _cost(session: xr.Dataset, measurement: xr.Dataset, **_: Any) -> Cost:
    n = session.sizes["frame"]
    table = 8.0 * n * measurement.sizes["star"] * measurement.sizes["star_quantity"]
    return Cost(np.array(n * 1e-3), np.array(table), np.array(3 * table + 20e6), 1.0)


@register(version=1, cost=_cost)
def approve(session: xr.Dataset, measurement: xr.Dataset, *, rule: str = "") -> xr.Dataset:
    """Measure how good each frame is, and leave out those that are not good enough.

    Parameters
    ----------
    session
        Table over `frame`.
    measurement
        From `measure`, of the same frames.
    rule
        What a frame must be, such as: fwhm < 4 px and eccentricity < 0.6 and stars > 0.3 * median(stars). Names:
        fwhm (px), eccentricity, stars, noise, background (adu), snr, psf_signal, psf_snr, valid, exposure (s),
        temperature; functions: median, mean, sigma (robust), best and least over all frames, min, max, abs, sqrt,
        log, exp. Empty approves all. Change it where the report shows frames that are out of focus, trailed or
        clouded. Noisy frames weigh little as it is; leave out those that would make stars wider.

    Returns
    -------
    xarray.Dataset
        Over `frame`, lazy: each measure, `use`, and `reason` for the frames left out.

    Raises
    ------
    ConfigError
        If the rule is no expression or names something unknown.
    """
    if rule.strip():
        Expression(rule, MEASURES)
    known = {
        n: session[n].values.astype(np.float64) if n in session else np.full(session.sizes["frame"], np.nan)
        for n in ("exposure", "temperature")
    }
    stars, summary = (da.asarray(measurement[name].data) for name in ("stars", "summary"))
    token = tokenize("approve", stars, summary, known, rule)
    n = session.sizes["frame"]
    of = {**dict.fromkeys(MEASURES, np.float64), "use": np.bool_, "reason": "<U200"}
    kinds = {name: (dtype, (n,), ("frame",)) for name, dtype in of.items()}
    variables = solved_arrays("approve", token, _task, [stars, summary, known, rule], kinds)
    return xr.Dataset(variables, coords={"frame": session["frame"].values})
