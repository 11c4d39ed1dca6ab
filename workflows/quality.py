"""How well a mosaic is known, in a few lines: residuals, steps, scales, islands, frames that disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from skyloom.ops.normalize import describe_islands
from skyloom.workflows.colour_quality import colour_lines
from skyloom.workflows.link_report import light_groups
from skyloom.workflows.store import Store

DISAGREES = 9.0
"""Variance of a frame's residuals over that of most frames, from which on it is named."""
_NAMED = 3


def quality(store: Store) -> list[str]:
    """Sum up registration, normalization and colours of a project, as far as it is.

    Returns
    -------
    list of str
        Lines for people; empty where neither node has a result.
    """
    results = {str(store.op(n)): store.open(n) for n in store.nodes() if store.newest(n)}
    lines = link_problems(results["link"]) if "link" in results else []
    if "register" in results:
        lines.append(_registration(results["register"]))
    if "normalize" in results:
        frames = results["normalize"]["frame"].values
        for session in results.values():
            if "name" in session and "band" in session and np.array_equal(session["frame"].values, frames):
                lines.extend(_normalization(session, results["normalize"]))
                break
    return lines + colour_lines(results)


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


def _normalization(session: xr.Dataset, normalization: xr.Dataset) -> list[str]:
    lines = []
    use, bands = normalization["use"].values, session["band"].values.astype(str)
    columns = {
        n: normalization[n].values
        for n in ("mean_scale", "residual_before", "residual_after", "inflation", "stars")
    }
    names = session["name"].values.astype(str)
    for band in sorted(set(bands[use])):
        here = use & (bands == band)
        lines.append(f"normalize: {band}: {_band(columns, here)}")
        odd = np.flatnonzero(here & (columns["inflation"] > DISAGREES))
        if odd.size:
            lines.append(
                f"normalize: {band}: disagree with all others (clouds, another field?): {_list(names[odd])}"
            )
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
    return text


def _list(names: Iterable[str]) -> str:
    every = [str(n) for n in names]
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
