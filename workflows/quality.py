"""How well a mosaic is known, in a few lines: residuals, steps, scales, islands, frames that disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from skyloom.ops.normalization.normalize import describe_islands
from skyloom.ops.normalization.reweighting import DISAGREES
from skyloom.workflows.background_quality import background_lines
from skyloom.workflows.colour_quality import colour_lines
from skyloom.workflows.link_report import light_groups
from skyloom.workflows.solution_quality import solution_lines
from skyloom.workflows.store import Store

_NAMED = 3
_MODES = {"level": (0,), "planes": (1, 2), "quadratics": (3, 4, 5)}


def quality(store: Store) -> list[str]:
    """Sum up registration, normalization, background and colours of a project, as far as it is.

    Returns
    -------
    list of str
        Lines for people; empty where neither node has a result.
    """
    return quality_lines({str(store.op(n)): store.open(n) for n in store.nodes() if store.newest(n)})


def quality_lines(results: Mapping[str, xr.Dataset]) -> list[str]:
    """Sum up what is known of results that are open already.

    Parameters
    ----------
    results
        Op → its result, as many as there are.

    Returns
    -------
    list of str
        Lines for people.
    """
    lines = link_problems(results["link"]) if "link" in results else []
    if "register" in results:
        lines.append(_registration(results["register"]) + _tied(results.get("locate")))
    if "normalize" in results:
        frames = results["normalize"]["frame"].values
        for session in results.values():
            if "name" in session and "band" in session and np.array_equal(session["frame"].values, frames):
                lines.extend(_normalization(session, results["normalize"]))
                break
    return lines + solution_lines(results) + background_lines(results) + colour_lines(results)


def link_problems(links: xr.Dataset) -> list[str]:
    """Broken links, a line each."""
    return [f"link: {g['label']}: {problem}" for g in light_groups(links) for problem in g["problems"]]


def _registration(registration: xr.Dataset) -> str:
    use = registration["use"].values
    residual = registration["residual"].values[use]
    matches = registration["matches"].values[use]
    seen = np.isfinite(residual)
    if not seen.any():
        return f"register: {use.sum()} frames on their WCS, no stars in common to verify it"
    stars, typical, worst = np.median(matches[seen]), np.median(residual[seen]), residual[seen].max()
    return (
        f"register: {use.sum()} frames, {seen.sum()} verified on a median of {stars:.0f} stars, "
        f"residual {typical:.3f} px (worst {worst:.3f})"
    )


def _tied(location: xr.Dataset | None) -> str:
    """How well frames far from each other are tied, where stars place them."""
    if location is None or "tie" not in location:
        return ""
    tie, text = location["tie"].values, ""
    if np.isfinite(tie).any():
        text += f", places good to {np.sqrt(np.nanmean(tie**2)):.2g} px across the mosaic"
        text += f" (worst {np.nanmax(tie):.2g})"
    loops = int(location["loops"].values)
    if loops:
        text += f", {loops} loops of overlaps close to {float(location['closure'].values):.2g} px"
    return text


def _normalization(session: xr.Dataset, normalization: xr.Dataset) -> list[str]:
    lines = []
    use, bands = normalization["use"].values, session["band"].values.astype(str)
    columns = {
        n: normalization[n].values
        for n in ("mean_scale", "residual_before", "residual_after", "residual_held", "inflation", "stars", "note")
        if n in normalization
    }
    names = session["name"].values.astype(str)
    for band in sorted(set(bands[use])):
        here = use & (bands == band)
        lines.append(f"normalize: {band}: {_band(columns, here)}{_surfaces(normalization, band)}")
        odd = np.flatnonzero(here & (columns["inflation"] > DISAGREES))
        if odd.size:
            lines.append(
                f"normalize: {band}: disagree with all others (clouds, another field?): {_list(names[odd])}"
            )
        if "note" in columns:
            told = np.flatnonzero(here & (columns["note"] != ""))
            told = told[~np.isin(told, odd)]
            lines.extend(_notes(band, names[told], columns["note"][told]))
    islands = describe_islands(session, normalization)
    for band in sorted({i["band"] for i in islands}):
        apart = [i for i in islands if i["band"] == band]
        if len(apart) > 1:
            parts = "; ".join(f"{i['count']} frames ({_list(i['frames'])})" for i in apart)
            lines.append(
                f"normalize: {band}: {len(apart)} islands without overlap, their levels are not tied: {parts}"
            )
    return lines


def _band(columns: Mapping[str, np.ndarray], here: np.ndarray) -> str:
    scale = columns["mean_scale"][here]
    before, after = (columns[n][here] for n in ("residual_before", "residual_after"))
    text = f"{here.sum()} frames, scales {scale.min():.3f}–{scale.max():.3f} from a median of "
    text += f"{np.median(columns['stars'][here]):.0f} stars"
    if np.isfinite(before).any():
        text += f", disagreement of overlaps {np.nanmedian(before):.3g} → {np.nanmedian(after):.3g}"
        held = columns.get("residual_held", np.full(len(here), np.nan))[here]
        if np.isfinite(held).any():
            text += f" ({np.nanmedian(held):.3g} where held out)"
    return text


def _surfaces(normalization: xr.Dataset, band: str) -> str:
    """Degree of a band's surfaces, and how well the long waves of its mosaic are known."""
    if "degree" not in normalization or band not in normalization["band"].values:
        return ""
    here = normalization.sel(band=band)
    degree, sigma = int(here["degree"].values), here["mode_sigma"].values
    text = f"; surfaces of degree {degree}" if degree >= 0 else ""
    if np.isfinite(sigma).all():
        known = ", ".join(
            f"{name} ± {np.sqrt(np.sum(sigma[list(which)] ** 2)):.2g}" for name, which in _MODES.items()
        )
        text += f"; long waves known to: {known}"
    return text


def _notes(band: str, names: np.ndarray, notes: np.ndarray) -> list[str]:
    """The first suspicious frames, a line each, and how many more there are."""
    lines = [f"normalize: {band}: {n}: {why}" for n, why in zip(names[:_NAMED], notes[:_NAMED], strict=True)]
    if len(names) > _NAMED:
        lines.append(f"normalize: {band}: {len(names) - _NAMED} more frames have notes (variable `note`)")
    return lines


def _list(names: Iterable[str]) -> str:
    every = [str(n) for n in names]
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
