"""Settings of the camera and the telescope, and where the telescope pointed."""

from __future__ import annotations

import re

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.cards import comment, first_number, first_text, number, sexagesimal
from skyloom.ops.session.fact import Fact
from skyloom.ops.session.sensor import DN_PER, PER_DN

_SENSOR = ("CCD-TEMP", "CCDTEMP", "DET-TEMP", "SENSTEMP", "CMOS-TMP", "TEMPERAT", "CHIPTEMP")
_SET_POINT = ("SET-TEMP", "SETTEMP", "CCD-SET", "TEMPSET", "TARGTEMP")
_KELVIN = re.compile(r"\bK(elvin)?\b")


def temperature(header: Header) -> Fact | None:
    """Temperature of the sensor (°C), else the set point of the cooler."""
    return _celsius(header, _SENSOR) or _celsius(header, _SET_POINT)


def set_point(header: Header) -> Fact | None:
    """Set point of the cooler (°C)."""
    return _celsius(header, _SET_POINT)


def _celsius(header: Header, keywords: tuple[str, ...]) -> Fact | None:
    for keyword in keywords:
        degrees = number(header, keyword)
        if degrees is not None and _KELVIN.search(comment(header, keyword)):
            degrees -= 273.15
        # What lies outside are placeholders: −1.8e308, 999.
        if degrees is not None and -273.15 < degrees < 100.0:
            return Fact(degrees, f"header {keyword}")
    return None


def gain_setting(header: Header) -> Fact | None:
    """Gain as it is set at the camera, in the camera's own steps (also ISO)."""
    found = number(header, "GAIN")
    said = comment(header, "GAIN")
    if found is not None and 0.0 <= found < 1e5 and not PER_DN.search(said) and not DN_PER.search(said):
        return Fact(found, "header GAIN")
    return first_number(header, ("ISOSPEED", "ISO", "GAINSET", "CAM-GAIN"), 0.0, 1e7)


def offset_setting(header: Header) -> Fact | None:
    """Offset (black level, brightness) as it is set at the camera."""
    return first_number(header, ("OFFSET", "BLKLEVEL", "BLACKLEV", "BRIGHTNES", "CAM-OFFS"), -1e6, 1e6)


_BINNINGS = (
    *(("XBINNING", "YBINNING"), ("CCDXBIN", "CCDYBIN"), ("BINX", "BINY"), ("XBIN", "YBIN"), ("HBIN", "VBIN")),
    *(("BIN-FCT1", "BIN-FCT2"), ("CCDBIN1", "CCDBIN2")),
)


def binning_of(text: str) -> str:
    """Binning as "2x2" of "2", "2x2", "2 2", "2 × 2"; "" for anything else."""
    match = re.match(r"\s*(\d{1,2})(?:\.0*)?(?:\s*[xX×*,: ]\s*(\d{1,2})(?:\.0*)?)?\s*$", text)
    if match is None or not 1 <= int(match.group(1)) <= 64 or not 1 <= int(match.group(2) or 1) <= 64:
        return ""
    return f"{int(match.group(1))}x{int(match.group(2) or match.group(1))}"


def header_binning(header: Header) -> Fact | None:
    """Binning, columns times rows, as "1x1"."""
    for x, y in _BINNINGS:
        columns, rows = number(header, x), number(header, y)
        if columns is not None and 1.0 <= columns <= 64.0:
            rows = rows if rows is not None and 1.0 <= rows <= 64.0 else columns
            return Fact(f"{round(columns)}x{round(rows)}", f"header {x}")
    for keyword in ("BINNING", "CCDSUM", "BIN"):
        text = binning_of(str(header.value(keyword, "")))
        if text:
            return Fact(text, f"header {keyword}")
    return None


_SECTION = re.compile(r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*$")


def section_of(text: str) -> str:
    """FITS section "[x1:x2,y1:y2]", counted from 1, ends included and in order; "" for anything else."""
    match = _SECTION.match(text)
    if match is None:
        return ""
    x1, x2, y1, y2 = (int(g[:9]) for g in match.groups())
    if min(x1, x2, y1, y2) < 1:
        return ""
    return f"[{min(x1, x2)}:{max(x1, x2)},{min(y1, y2)}:{max(y1, y2)}]"


def header_section(header: Header, keywords: tuple[str, ...], shape: tuple[int, int]) -> tuple[Fact | None, str]:
    """Section of the image a header states, and what is odd about it.

    A section that reaches out of the image is of a larger one this was cut from; the whole image is none.
    """
    for keyword in keywords:
        text = section_of(str(header.value(keyword, "")))
        if not text:
            continue
        x1, x2, y1, y2 = (int(n) for n in re.findall(r"\d+", text))
        if x2 > shape[1] or y2 > shape[0]:
            return None, f"{keyword} = {text} reaches out of the image: ignored"
        if (x1, x2, y1, y2) == (1, shape[1], 1, shape[0]):
            return None, ""
        return Fact(text, f"header {keyword}"), ""
    return None, ""


TRIM = ("TRIMSEC", "DATASEC")
OVERSCAN = ("BIASSEC", "OVERSEC")


def pixel_size(header: Header, binning: str) -> Fact | None:
    """Width of a pixel of the image (µm), binning included."""
    found = first_number(header, ("XPIXSZ", "XPIXELSZ"), 0.1, 200.0)
    if found is not None:
        return found
    # INDI writes the sensor's own pixels under this name.
    found = first_number(header, ("PIXSIZE1", "PIXSIZE", "PIXSZ", "PIXELSZ"), 0.1, 200.0)
    factor = int(binning.partition("x")[0]) if binning else 1
    return None if found is None else Fact(float(found.value) * factor, found.origin)


def focal_length(header: Header) -> Fact | None:
    """Focal length (mm)."""
    return first_number(header, ("FOCALLEN", "FOCAL", "FOCALLMM", "FOCLEN", "FLENGTH"), 1.0, 1e6)


def telescope(header: Header) -> Fact | None:
    """Name of the telescope; many programs write the mount's."""
    return first_text(header, ("TELESCOP", "TELNAME", "SCOPE"))


def rotation(header: Header) -> Fact | None:
    """Angle of the camera (degrees, 0…360): the rotator's, else the position angle on the sky.

    The rotator first: it is what flats have as well, and it stays the same through a meridian flip.
    """
    keywords = (
        "ROTATANG",
        "ROTATOR",
        "ROTANGLE",
        "ANGLE",
        "POSANGLE",
        "PA",
        "ROTSKYPA",
        "OBJCTROT",
        "CROTA2",
        "CROTA1",
    )
    found = first_number(header, keywords, -720.0, 720.0)
    return None if found is None else Fact(float(found.value) % 360.0, found.origin)


_HOURS = re.compile(r"\b(hours?|hrs?|h\b|hms|hh|h m s)", re.IGNORECASE)
_DEGREES = re.compile(r"deg", re.IGNORECASE)
_PAIRS = (("RA", "DEC"), ("OBJCTRA", "OBJCTDEC"), ("TELRA", "TELDEC"), ("RA-D", "DEC-D"), ("RA_OBJ", "DEC_OBJ"))


def pointing(header: Header) -> tuple[Fact, Fact] | None:
    """Right ascension and declination (degrees) the telescope was pointed at; None where no header tells."""
    for ra_keyword, dec_keyword in _PAIRS:
        ra, dec = _right_ascension(header, ra_keyword), _declination(header, dec_keyword)
        if ra is not None and dec is not None:
            return Fact(ra, f"header {ra_keyword}"), Fact(dec, f"header {dec_keyword}")
    if str(header.value("CTYPE1", "")).startswith("RA--"):
        ra, dec = number(header, "CRVAL1"), number(header, "CRVAL2")
        if ra is not None and dec is not None and 0.0 <= ra <= 360.0 and abs(dec) <= 90.0:
            return Fact(ra, "header CRVAL1"), Fact(dec, "header CRVAL2")
    return None


def _right_ascension(header: Header, keyword: str) -> float | None:
    said = comment(header, keyword)
    value = number(header, keyword)
    if value is None:
        value = sexagesimal(str(header.value(keyword, "")))
        # Parts of 60 are of hours unless the header says otherwise.
        if value is not None and not (_DEGREES.search(said) and not _HOURS.search(said)):
            value *= 15.0
    elif _HOURS.search(said) and not _DEGREES.search(said):
        value *= 15.0
    elif 0.0 <= value < 24.0 and not _DEGREES.search(said) and keyword != "OBJCTRA":
        object_ra = sexagesimal(str(header.value("OBJCTRA", "")))
        if object_ra is not None and _apart(value * 15.0, object_ra * 15.0) < min(
            5.0, _apart(value, object_ra * 15.0)
        ):
            value *= 15.0
    elif keyword == "OBJCTRA" and 0.0 <= value < 24.0:
        value *= 15.0
    return value if value is not None and 0.0 <= value <= 360.0 else None


def _apart(first: float, second: float) -> float:
    return abs((first - second + 180.0) % 360.0 - 180.0)


def _declination(header: Header, keyword: str) -> float | None:
    value = number(header, keyword)
    if value is None:
        value = sexagesimal(str(header.value(keyword, "")))
    return value if value is not None and abs(value) <= 90.0 else None
