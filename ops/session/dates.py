"""When a frame was taken: the start of the exposure in UTC, and the night, from noon to noon in local time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.cards import comment, number, sexagesimal
from skyloom.ops.session.fact import UNKNOWN_TEXT, Fact

_START = ("DATE-OBS", "DATE-BEG", "DATE_OBS", "DATE-STA")
_CLOCKS = ("TIME-OBS", "UT", "UTC", "UT-OBS", "UTSTART", "TIME", "TIME-BEG", "UTC-OBS")
_START_DAYS = (("MJD-OBS", 2400000.5), ("MJD-BEG", 2400000.5), ("JD", 0.0), ("JD-OBS", 0.0))
_LATER = (("DATE-AVG", 0.5), ("DATE-END", 1.0))
"""Keywords of a later moment, and the part of the exposure that is over by then."""
_DAY_ONLY = ("UT_DATE", "ORDATE", "DATE")
_CLOCK = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?")
_ZONE = re.compile(r"([+-])(\d{2}):?(\d{2})$")
_DAYS = (
    (re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"), (1, 2, 3)),
    (re.compile(r"(\d{1,2})/(\d{1,2})/(\d{2}|\d{4})$"), (3, 2, 1)),
    (re.compile(r"(\d{2})(\d{2})(\d{2})$"), (1, 2, 3)),
    (re.compile(r"(\d{4})(\d{2})(\d{2})$"), (1, 2, 3)),
)
_NAMED = re.compile(
    r"(?<!\d)((?:19|20)\d{2})[-_.]?(\d{2})[-_.]?(\d{2})(?:[-_.T ]+(\d{2})[-_.:]?(\d{2})(?:[-_.:]?(\d{2}))?)?(?!\d)"
)
_MONTH_FIRST = re.compile(
    r"(\d{1,2})/(\d{1,2})/(\d{4})\D{1,6}(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d*)?)?\s*([AP]M)?", re.IGNORECASE
)
ZONES = timedelta(hours=14.5)
"""Local time is never further from UTC than this."""


def iso_date(day: str, clock: str = "") -> str:
    """ISO text of a date and a time of day in any of the forms headers use; "" where they make no sense.

    A zone behind the time ("+02:00") is taken off: the result is UTC where the text says how far it is.
    """
    day = day.strip()
    first, _, rest = day.partition("T") if "T" in day else day.partition(" ")
    for pattern, order in _DAYS:
        match = pattern.match(first.strip())
        if match is None:
            continue
        year, month, date = (int(match.group(i)) for i in order)
        if year < 100:
            # The old form of the FITS standard is of the 20th century; 2MASS counts on.
            year += 1900 if year >= 50 else 2000
        if not 1700 <= year <= 2300:
            return ""
        time, zone = _CLOCK.match(rest.strip()) or _CLOCK.match(clock.strip()), _ZONE.search(rest.strip())
        try:
            moment = datetime(year, month, date, tzinfo=UTC)
            if time is not None:
                moment += timedelta(
                    hours=int(time.group(1)), minutes=int(time.group(2)), seconds=float(time.group(3) or 0.0)
                )
                if zone is not None:
                    ahead = timedelta(hours=int(zone.group(2)), minutes=int(zone.group(3)))
                    moment += ahead if zone.group(1) == "-" else -ahead
        except (ValueError, OverflowError):
            return ""
        return _text(moment) if time is not None else moment.date().isoformat()
    return ""


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00")


def moment_of(text: str) -> datetime | None:
    """Moment of a text of `iso_date` that has a time of day; None for others."""
    if "T" not in text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def header_date(header: Header, exposure: float) -> Fact | None:
    """Start of the exposure (ISO, UTC; a day alone where there is no time) as the header states it.

    Parameters
    ----------
    header
        Header of the image.
    exposure
        Seconds, NaN when unknown: programs that state the middle or the end are led back by it.
    """
    clocks = [str(header.value(k)) for k in _CLOCKS if _CLOCK.match(str(header.value(k, "")).strip())]
    clock = clocks[0] if clocks else ""
    for keyword in _START:
        text = iso_date(str(header.value(keyword, "")), clock)
        if text:
            said = comment(header, keyword).lower()
            over = 1.0 if re.search(r"\bend\b", said) else 0.5 if re.search(r"\bmid(dle|point)?\b", said) else 0.0
            return Fact(_earlier(text, over, exposure), f"header {keyword}")
    for keyword, zero in _START_DAYS:
        days = number(header, keyword)
        if days is not None and 2300000.0 < days + zero < 2600000.0:
            moment = datetime(2000, 1, 1, 12, tzinfo=UTC) + timedelta(days=days + zero - 2451545.0)
            return Fact(_text(moment), f"header {keyword}")
    for keyword, over in _LATER:
        text = iso_date(str(header.value(keyword, "")))
        if text:
            return Fact(_earlier(text, over, exposure), f"header {keyword}")
    for keyword in _DAY_ONLY:
        text = iso_date(str(header.value(keyword, "")), clock)
        if text:
            return Fact(text, f"header {keyword}")
    return None


def _earlier(text: str, part: float, exposure: float) -> str:
    moment = moment_of(text)
    if moment is None or not part or not 0.0 < exposure < 1e6:
        return text
    return _text(moment - timedelta(seconds=part * exposure))


def named_date(name: str) -> str:
    """Date in a name ("2023-01-14_22-05-52", "20230114-220552", …) as ISO; "" where there is none."""
    match = _NAMED.search(name)
    if match is None:
        return ""
    year, month, day, *time = match.groups()
    return iso_date(f"{year}-{month}-{day}", ":".join(t or "00" for t in time) if time[0] else "")


def night_of(local: datetime) -> str:
    """Date of the noon before a moment of local time."""
    return (local - timedelta(hours=12)).date().isoformat()


def header_night(header: Header, date: Fact, named: str) -> Fact:
    """Night of a frame: the date of the local noon before the exposure.

    Local time is, in this order: `DATE-LOC` (or what older programs write in its place), UTC + longitude of the
    site / 15 h, the time in the file's name (most programs write local time there), UTC.

    Parameters
    ----------
    header
        Header of the image.
    date
        Start of the exposure in UTC.
    named
        Date in the file's name, "" for none.
    """
    utc = moment_of(str(date.value))
    if not date.origin.startswith("user"):
        for keyword in ("DATE-LOC", "LOCALTIM", "NOTE"):
            local = _local(str(header.value(keyword, "")), utc, month_first=keyword != "DATE-LOC")
            if local is not None:
                return Fact(night_of(local), f"header {keyword}")
    elif utc is None and date.value:
        return Fact(str(date.value), date.origin)
    if utc is None:
        return UNKNOWN_TEXT
    site = longitude(header)
    if site is not None:
        degrees, keyword = site
        return Fact(night_of(utc + timedelta(hours=degrees / 15.0)), f"{date.origin}, header {keyword}")
    in_name = moment_of(named)
    if in_name is not None and abs(in_name - utc) <= ZONES:
        return Fact(night_of(in_name), "file name")
    return Fact(night_of(utc), date.origin)


def _local(text: str, utc: datetime | None, *, month_first: bool) -> datetime | None:
    if not month_first:
        # A zone behind a local time is no reason to leave local time.
        return moment_of(iso_date(_ZONE.sub("", text.strip()) if "T" in text else text))
    match = _MONTH_FIRST.search(text)
    if match is None or utc is None:
        return None
    first, second, year, hour, minute, second_, half = match.groups()
    hours = int(hour) % 12 + (12 if half.upper() == "PM" else 0) if half else int(hour)
    for month, day in ((first, second), (second, first)):
        try:
            local = datetime(int(year), int(month), int(day), hours, int(minute), int(second_ or 0), tzinfo=UTC)
        except ValueError:
            continue
        if abs(local - utc) <= ZONES:
            return local
    return None


_LONGITUDE = (
    "SITELONG",
    "SITELON",
    "SITE-LON",
    "LONG-OBS",
    "OBSGEO-L",
    "GEOLON",
    "LONGITUD",
    "OBS-LONG",
    "TELLONG",
)
_LATITUDE = ("SITELAT", "SITE-LAT", "LAT-OBS", "OBSGEO-B", "GEOLAT", "LATITUDE", "OBS-LAT", "TELLAT")
_WEST = re.compile(r"west\w*[ ,=:]*(\+|positive|longitude)|degrees west", re.IGNORECASE)


def longitude(header: Header) -> tuple[float, str] | None:
    """Longitude of the site (degrees, east positive, −180…180) and its keyword; None where there is none."""
    for keyword in _LONGITUDE:
        degrees = _angle(header, keyword)
        if degrees is None or not -360.0 <= degrees <= 360.0:
            continue
        # Programs that know no site write zeros.
        if degrees == 0.0 and not any(_angle(header, k) for k in _LATITUDE):
            continue
        if _WEST.search(comment(header, keyword)):
            degrees = -degrees
        return (degrees + 180.0) % 360.0 - 180.0, keyword
    return None


def _angle(header: Header, keyword: str) -> float | None:
    value = number(header, keyword)
    return value if value is not None else sexagesimal(str(header.value(keyword, "")))
