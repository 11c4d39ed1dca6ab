"""How much each frame counts in the mean."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.expression import Expression
from skyloom.ops.formats.examine import examine
from skyloom.ops.measurement.approve import MEASURES

Floats = NDArray[np.float64]

Weighting = Literal[
    "inverse_variance", "point_source", "psf_signal", "psf_snr", "exposure", "keyword", "expression", "none"
]

NAMES: Mapping[str, str] = {**MEASURES, "scale": ""}
"""Name → unit of what an expression may use; `scale` is what a frame's pixels are multiplied with."""

_OF_NOISE = ("inverse_variance", "point_source")
_MEASURES_OF: Mapping[str, tuple[str, ...]] = {
    "point_source": ("fwhm",),
    "psf_signal": ("psf_signal",),
    "psf_snr": ("psf_snr",),
    "exposure": ("exposure",),
}
_IN_SESSION = ("exposure", "temperature")


def needs_noise(weighting: Weighting) -> bool:
    """True where 1 / noise² is part of the weight."""
    return weighting in _OF_NOISE


def measures_needed(weighting: Weighting, rule: str) -> tuple[str, ...]:
    """Names of the measures of frames that a weighting uses.

    Raises
    ------
    ConfigError
        If the rule is missing, not used, or no expression.
    """
    if weighting == "expression":
        if not rule.strip():
            raise ConfigError(
                "integrate: weighting = expression needs weight_rule, such as: snr / fwhm ** 2; "
                f"names: {', '.join(NAMES)}"
            )
        return tuple(sorted(Expression(rule, NAMES).used - {"scale"}))
    if weighting == "keyword":
        if not rule.strip():
            raise ConfigError("integrate: weighting = keyword needs weight_rule = the keyword, such as SSWEIGHT")
        return ()
    if rule.strip():
        raise ConfigError(
            f"integrate: weight_rule = {rule!r} is for weighting = expression and keyword, not for {weighting}"
        )
    return _MEASURES_OF.get(weighting, ())


def measures_of(session: xr.Dataset, approval: xr.Dataset | None, names: tuple[str, ...]) -> dict[str, Any]:
    """Variables over `frame`, from the session where it has them, else from the approval.

    Raises
    ------
    ConfigError
        If there is no approval to take one from, or it is of other frames.
    """
    found: dict[str, Any] = {}
    for name in names:
        if name in _IN_SESSION and name in session:
            found[name] = session[name]
            continue
        if approval is None:
            raise ConfigError(
                f"integrate: the weights need each frame's {name}, which no input has: give the node the input "
                "approval (op approve)"
            )
        if approval.sizes["frame"] != session.sizes["frame"] or not np.array_equal(
            approval["frame"].values, session["frame"].values
        ):
            raise ConfigError(
                f"integrate: approval has {approval.sizes['frame']} frames that are not the session's "
                f"{session.sizes['frame']}: make both from the same session"
            )
        found[name] = approval[name]
    return found


def keyword_values(session: xr.Dataset, frames: NDArray[np.int64], keyword: str) -> Floats:
    """Number each frame's header has for a keyword, (frames of the session,); NaN where not asked for.

    Raises
    ------
    DataError
        If a frame's header lacks it, or it is no number.
    """
    out = np.full(session.sizes["frame"], np.nan)
    for index in frames.tolist():
        name = str(session["name"].values[index])
        leaf = file_of(json.loads(str(session["source"].values[index])))
        if leaf is None:
            raise DataError(
                f"integrate: {name} has no file whose header could say {keyword}: use another weighting"
            )
        files = examine(leaf["path"])
        spec = json.dumps(leaf, sort_keys=True)
        at = next((f for f in files if json.dumps(json.loads(f.source.spec()), sort_keys=True) == spec), files[0])
        card = at.header.get(keyword.strip().upper())
        value = None if card is None else card.value
        try:
            out[index] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            said = "has no" if value is None else f"has {value!r} for"
            raise DataError(
                f"integrate: the header of {name} {said} {keyword.strip().upper()}: write a number there, or use "
                "another weighting"
            ) from None
    return out


def file_of(fields: dict[str, Any]) -> dict[str, Any] | None:
    """The file's own source inside that of a calibrated or debayered frame."""
    for inner in ("light", "source"):
        if isinstance(fields.get(inner), dict):
            return file_of(fields[inner])
    return fields if isinstance(fields.get("path"), str) else None


def frame_factors(
    weighting: Weighting, rule: str, measures: Mapping[str, Floats], scale: Floats, use: NDArray[np.bool_],
    names: tuple[str, ...],
) -> Floats:  # fmt: skip
    """What each frame's weight is, or is multiplied with where `needs_noise`.

    Parameters
    ----------
    weighting, rule
        As `integrate` takes them.
    measures
        Name → (frames,); "keyword" holds the headers' values.
    scale
        (frames,) mean factor on the frame's pixels.
    use
        Frames in use: the others' weights are not looked at.
    names
        Of the frames, for messages.

    Returns
    -------
    ndarray
        (frames,). point_source: 1 / FWHM² in frame pixels.

    Raises
    ------
    DataError
        If the weight of a frame in use is not a positive number.
    """
    factor = np.ones(use.size)
    if weighting == "expression":
        # A median over all frames should not count those that are out.
        values = {n: np.where(use, v, np.nan) for n, v in {**measures, "scale": scale}.items()}
        factor = np.asarray(Expression(rule, NAMES).evaluate(values), dtype=np.float64)
    elif weighting == "point_source":
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = measures["fwhm"] ** -2.0
    elif weighting not in ("inverse_variance", "none"):
        factor = measures[weighting]
    for index in np.flatnonzero(use).tolist():
        if not (math.isfinite(factor[index]) and factor[index] > 0):
            of = rule if weighting in ("expression", "keyword") else weighting
            raise DataError(
                f"integrate: the weight of {names[index]} by {of} is {factor[index]:g}, it should be above 0: "
                "leave the frame out (approve) or use another weighting"
            )
    return np.asarray(factor, dtype=np.float64)
