"""The facts there are: what values each may have, how it is read from a user's text, which are columns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any

from skyloom.ops.session.band import band_of
from skyloom.ops.session.bayer import PATTERNS
from skyloom.ops.session.camera import binning_of, section_of
from skyloom.ops.session.cards import printable
from skyloom.ops.session.dates import iso_date, named_date
from skyloom.ops.session.kind import KINDS, kind_of, named_kind

Value = str | float | bool

_NUMBER = r"[-+]?\d{1,12}(?:[.,]\d{1,12})?"
_TEXT = r"[^/]+"
ANYTHING = r"[^/]*"
_DAY = r"\d{4}[-_.]?\d{2}[-_.]?\d{2}"
_MOMENT = _DAY + r"(?:[-_.T ]{1,3}\d{2}[-_.:]?\d{2}(?:[-_.:]?\d{2})?)?"


@dataclass(frozen=True)
class Field:
    """One fact of a frame."""

    name: str
    what: str
    """What its values are, to end "… should be"."""
    read: Callable[[Any], Value]
    """Value of what a user wrote; ValueError where it makes no sense."""
    default: Value
    """What nobody knows."""
    form: str = _TEXT
    """Regular expression of the texts it can have in a name; "" = never in a name."""
    column: bool = True
    """Whether the session has a column of it."""

    @property
    def free(self) -> bool:
        """Whether any text can be its value: then the shortest that fits is meant, of other forms the longest."""
        return self.form in (_TEXT, ANYTHING)

    def value_in_name(self, text: str) -> Value | None:
        """Value of a part of a name; None where the part is none of this."""
        if self.read is _kind:
            # A user's word may be loose, but in a name "America_Light" is two parts.
            return named_kind([re.sub(r"[ _-]", "", text)])[0] or None
        try:
            return self.read(text.replace(",", ".") if self.form == _NUMBER else text)
        except ValueError:
            return None


def _number(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        found = float(value)
        if not low <= found <= high:
            raise ValueError
        return found

    return read


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    return printable(value)


def _kind(value: Any) -> str:
    text = _text(value)
    found = text.lower() if text.lower() in KINDS else kind_of(text)
    if not found:
        raise ValueError(next(iter(get_close_matches(text.lower(), KINDS, n=1)), ""))
    return found


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _filter(value: Any) -> str:
    return band_of(_text(value))


def _binning(value: Any) -> str:
    text = binning_of(str(value)) if not isinstance(value, bool) else ""
    if not text:
        raise ValueError
    return text


def _bayer(value: Any) -> str:
    text = _text(value).upper()
    if text in ("", "NONE", "MONO"):
        return ""
    if text not in PATTERNS:
        raise ValueError
    return text


def _moment(value: Any) -> str:
    text = value.isoformat() if isinstance(value, date | datetime) else _text(value)
    found = named_date(text) if re.fullmatch(_MOMENT, text) else iso_date(text)
    if not found:
        raise ValueError
    return found


def _night(value: Any) -> str:
    return _moment(value)[:10]


def _section(value: Any) -> str:
    text = _text(value)
    found = section_of(text)
    if text and not found:
        raise ValueError
    return found


_NAN = math.nan
_FIELDS = (
    Field("kind", f"one of {', '.join(KINDS)}", _kind, "unknown", r"[A-Za-z]+(?:[ _-][A-Za-z]+)?\d{0,3}"),
    Field("master", "true or false", _flag, False, ""),
    Field("band", "the name of a band", _filter, "none"),
    Field("filter", "the name of a filter", _filter, ""),
    Field("exposure", "a number of seconds", _number(0.0, 1e6), _NAN, _NUMBER),
    Field("gain", "a number (e-/DN)", _number(1e-9, 1e6), _NAN, ""),
    Field("saturation", "a number (units of the pixels)", _number(1e-9, 1e12), _NAN, ""),
    Field("units", "a text", _text, "adu", ""),
    Field("date", "a date and time (UTC) such as 2024-01-31T21:05:00", _moment, "", _MOMENT),
    Field("camera", "a text", _text, ""),
    Field("temperature", "a number (°C)", _number(-273.15, 100.0), _NAN, _NUMBER),
    Field("gain_setting", "a number", _number(0.0, 1e7), _NAN, _NUMBER),
    Field("offset_setting", "a number", _number(-1e6, 1e6), _NAN, _NUMBER),
    Field("binning", "a number or two such as 2x2", _binning, "", r"\d{1,2}(?:[xX×]\d{1,2})?"),
    Field(
        "bayer", f"{', '.join(PATTERNS)} or none: colours of the first two stored rows", _bayer, "", r"[A-Za-z]{4}"
    ),
    Field("rotation", "a number of degrees", _number(-720.0, 720.0), _NAN, _NUMBER),
    Field("night", "a day such as 2024-01-31", _night, "", _DAY),
    Field("ra", "a number of degrees, 0 to 360", _number(0.0, 360.0), _NAN, ""),
    Field("dec", "a number of degrees, -90 to 90", _number(-90.0, 90.0), _NAN, ""),
    Field("pedestal", "a number (units of the pixels)", _number(-1e9, 1e9), 0.0, ""),
    Field("read_noise", "a number (e-)", _number(0.0, 1e5), _NAN, ""),
    Field("trim", "a FITS section such as [1:1024,1:1024]", _section, "", ""),
    Field("overscan", "a FITS section such as [1025:1056,1:1024]", _section, "", ""),
    Field("telescope", "a text", _text, ""),
    Field("pixel_size", "a number (µm)", _number(1e-3, 1e4), _NAN, ""),
    Field("focal_length", "a number (mm)", _number(1e-3, 1e7), _NAN, _NUMBER),
    Field("object", "a text", _text, "", column=False),
    Field("product", "what it is when it is no frame, or none", _text, "", "", column=False),
)
FIELDS = {field.name: field for field in _FIELDS}
"""Every fact a user can state, by name."""
COLUMNS = tuple(field for field in _FIELDS if field.column)
"""The facts that are columns of the session, in order."""
