"""What people should know of the frames of a session before they calibrate or combine them."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

SET_POINT = 1.0
"""Sensors further from the cooler's set point than this are told (°C)."""
DRIFT = 2.0
"""Temperatures of like frames of a night that spread further than this are told (°C)."""
FLAT_SPREAD = 5.0
"""Exposures of flats of one filter and night that differ by more than this factor are told."""
LIGHTS = ("light", "unknown")


def oddities(columns: Mapping[str, list[Any]], facts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Oddities of each frame.

    Parameters
    ----------
    columns
        The session's columns as lists.
    facts
        The facts of each frame with their origin, and the "notes" `ingest` made.
    """
    table = _Table(columns, facts)
    for check in (_notes, _itself, _pointing, _sizes, _temperatures, _dates, _settings, _flats, _filters):
        check(table)
    return table.odd


class _Table:
    """The columns of a session, and what is odd so far."""

    def __init__(self, columns: Mapping[str, list[Any]], facts: Sequence[Mapping[str, Any]]) -> None:
        self.columns = columns
        self.facts = facts
        self.count = len(facts)
        self.odd: list[list[str]] = [[] for _ in facts]

    def get(self, name: str, index: int, default: Any = "") -> Any:
        """Value of a column; a session made by hand need not have all."""
        return self.columns[name][index] if name in self.columns else default

    def number(self, name: str, index: int) -> float:
        return float(self.get(name, index, math.nan))

    def light(self, index: int) -> bool:
        return self.get("kind", index) in LIGHTS

    def groups(
        self, keys: Sequence[str], of: Callable[[int], bool] = lambda _: True
    ) -> dict[tuple[Hashable, ...], list[int]]:
        """Rows that agree in some columns."""
        found: dict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        for i in range(self.count):
            if of(i):
                found[tuple(_key(self.get(k, i)) for k in keys)].append(i)
        return found

    def tell(self, rows: Sequence[int], text: str) -> None:
        for i in rows:
            self.odd[i].append(text)


def _key(value: Any) -> Hashable:
    # NaN is not equal to itself: unknown numbers have to be.
    return None if isinstance(value, float) and math.isnan(value) else value


def _notes(table: _Table) -> None:
    for i, facts in enumerate(table.facts):
        table.odd[i] += facts.get("notes", [[]])[0]


def _itself(table: _Table) -> None:
    for i in range(table.count):
        kind = table.get("kind", i)
        if kind == "unknown":
            table.odd[i].append("does not say what it is (no IMAGETYP, no word in its name): taken as a light")
        silent = [name for name in ("exposure",) if kind != "bias" and math.isnan(table.number(name, i))]
        silent += [name for name in ("date", "camera") if not table.get(name, i)]
        if silent:
            table.odd[i].append(f"says nothing of its {', '.join(silent)}")
        if table.light(i) and math.isnan(table.number("saturation", i)):
            table.odd[i].append("the level of saturation is unknown: saturated stars cannot be told")
        binning = table.get("binning", i)
        if table.get("bayer", i) and binning not in ("", "1x1"):
            table.odd[i].append(
                f"a colour sensor binned {binning}: whether the Bayer pattern still holds is uncertain"
            )


def _pointing(table: _Table) -> None:
    for i in range(table.count):
        if table.light(i) and not table.get("wcs", i) and not any("WCS" in o for o in table.odd[i]):
            table.odd[i].append("no WCS: solve it (ASTAP, astrometry.net) before a mosaic")


def _sizes(table: _Table) -> None:
    """Sizes that differ from most: of all frames, as calibration frames have to fit the lights."""
    shapes = Counter((table.get("width", i), table.get("height", i)) for i in range(table.count))
    if len(shapes) < 2:
        return
    usual = shapes.most_common(1)[0][0]
    for i in range(table.count):
        if (table.get("width", i), table.get("height", i)) != usual:
            table.odd[i].append(f"size differs from most ({usual[0]} x {usual[1]})")


def _temperatures(table: _Table) -> None:
    for i in range(table.count):
        goal = table.facts[i].get("set_temperature", [None])[0]
        found = table.number("temperature", i)
        if isinstance(goal, int | float) and abs(found - goal) > SET_POINT:
            table.odd[i].append(f"sensor at {found:.1f} °C, set point {goal:.1f} °C")
    keys = ("kind", "band", "camera", "exposure", "gain_setting", "night")
    for rows in table.groups(keys, lambda i: not math.isnan(table.number("temperature", i))).values():
        found_ = [table.number("temperature", i) for i in rows]
        if max(found_) - min(found_) > DRIFT:
            what = f"{len(rows)} {table.get('kind', rows[0])} frames"
            table.tell(
                rows, f"temperature drifts from {min(found_):.1f} to {max(found_):.1f} °C ({what} of a night)"
            )


def _dates(table: _Table) -> None:
    """Times that are of two frames: clipped, or copied."""
    timed = table.groups(("date", "camera"), lambda i: "T" in table.get("date", i))
    for rows in timed.values():
        files = {re.sub(r" \[[^\]]*\]$", "", str(table.get("name", i))) for i in rows}
        if len(files) > 1:
            table.tell(rows, f"{len(files)} frames have one time ({table.get('date', rows[0])})")


def _settings(table: _Table) -> None:
    """Lights of one filter and camera taken with different settings: each needs darks of its own."""
    for rows in table.groups(("band", "filter", "camera"), table.light).values():
        # Programs that do not write the setting (MaxIm DL) write what it comes to.
        gain = "gain_setting" if any(math.isfinite(table.number("gain_setting", i)) for i in rows) else "gain"
        for name, what in ((gain, "gain"), ("offset_setting", "offset"), ("binning", "binning")):
            values = sorted({_key(table.get(name, i, math.nan)) for i in rows} - {None, ""}, key=_by_number)
            if len(values) > 1:
                shown = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
                table.tell(rows, f"lights of one filter have different {what}s: {shown}")


def _by_number(value: Hashable) -> tuple[float, str]:
    return (value, "") if isinstance(value, int | float) else (0.0, str(value))


def _flats(table: _Table) -> None:
    flats = table.groups(
        ("filter", "camera", "night", "master"),
        lambda i: table.get("kind", i) == "flat" and table.number("exposure", i) > 0.0,
    )
    for rows in flats.values():
        seconds = [table.number("exposure", i) for i in rows]
        if max(seconds) > FLAT_SPREAD * min(seconds):
            table.tell(rows, f"flats of one filter and night run from {min(seconds):g} to {max(seconds):g} s")


def _filters(table: _Table) -> None:
    """Colour sensors behind different filters have one band: what is in it has to be chosen."""
    for rows in table.groups(
        ("band", "camera"), lambda i: table.light(i) and bool(table.get("bayer", i))
    ).values():
        names = sorted({str(table.get("filter", i)) or "no filter" for i in rows})
        if len(names) > 1:
            table.tell(
                rows,
                f"a colour sensor behind {', '.join(names)}: run them one by one (ingest.bands takes filters)",
            )
