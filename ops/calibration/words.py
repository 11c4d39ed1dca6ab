"""Facts of frames in the words of the field: labels of groups, and numbers with their units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date


def number(value: float) -> str:
    """Number as people write it: three digits, no exponent, a true minus sign."""
    if math.isnan(value):
        return "?"
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return ("0" if text == "-0" else text).replace("-", "−")


def seconds(value: float) -> str:
    """Exposure: "120 s", "0.002 s"; short ones keep two digits more."""
    return f"{number(value)} s"


def celsius(value: float) -> str:
    """Temperature, to half a degree: a cooler's −9.9 is the −10 it was set to."""
    return f"{number(round(2 * value) / 2)} °C"


def night(ordinal: float) -> str:
    """Night of an ordinal day, "" where unknown."""
    return "" if math.isnan(ordinal) else date.fromordinal(int(ordinal)).isoformat()


def nights(first: float, last: float) -> str:
    """One night, or the first and the last of several."""
    return night(first) if first == last else f"{night(first)} to {night(last)}".removesuffix(" to ")


def ordinal(text: str) -> float:
    """Ordinal day of "YYYY-MM-DD", NaN for anything else."""
    try:
        return float(date.fromisoformat(text).toordinal())
    except ValueError:
        return math.nan


def plural(count: int, noun: str) -> str:
    """Count and noun: "1 frame", "3 frames"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def unlike(labels: Sequence[str], more: Sequence[Sequence[str]]) -> list[str]:
    """Labels made different from each other.

    Parameters
    ----------
    labels
        Short labels; some may be equal.
    more
        For each label further facts, most telling first, all in the same order; "" = not known.

    Returns
    -------
    list of str
        Equal labels get the first facts in which they differ, and numbers where none is left.
    """
    result = list(labels)
    for rank in range(len(more[0]) if more else 0):
        for same in _equals(result):
            if len({more[i][rank] for i in same}) > 1:
                for i in same:
                    result[i] = f"{result[i]}, {more[i][rank]}" if more[i][rank] else result[i]
    for same in _equals(result):
        for number_, i in enumerate(same, start=1):
            result[i] = f"{result[i]} ({number_})"
    return result


def _equals(labels: Sequence[str]) -> list[list[int]]:
    """Positions of labels that occur more than once."""
    places: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        places.setdefault(label, []).append(i)
    return [same for same in places.values() if len(same) > 1]
