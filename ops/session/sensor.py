"""What the numbers in the pixels mean: units, e-/DN, saturation, pedestal, read noise."""

from __future__ import annotations

import math
import re

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.cards import comment, first_text, number
from skyloom.ops.session.fact import DEFAULT, UNKNOWN_NUMBER, Fact, quantity

PER_DN = re.compile(r"(e-?|electrons?)\s*(/|per)\s*(adu|a/?d|dn|count|analog)", re.IGNORECASE)
"""A comment that says e-/DN."""
DN_PER = re.compile(r"(adu|dn|counts?)\s*(/|per)\s*(e-?\b|electron)", re.IGNORECASE)
_GAIN_ALONE = ("EGAIN", "GAINA", "ATODGAIN", "EPERADU", "CVF")
"""Keywords that mean e-/DN without saying so; GAIN is a setting of the camera as often as not."""
_GAIN_KEYWORDS = ("EGAIN", "GAIN", "GAIN1", "GAINA", "CCDGAIN", "ATODGAIN", "EPERADU", "CVF")
_UNITS = {"adu": "adu", "count": "adu", "counts": "adu", "dn": "DN", "e-": "electron", "e": "electron"}
_UNITS |= {"electron": "electron", "electrons": "electron"}
_ELECTRONS_A_SECOND = re.compile(r"(e-?|electrons?)\s*(/\s*s(ec)?|\s*s-1)$", re.IGNORECASE)
SOFTWARE = ("SWCREATE", "SOFTWARE", "CREATOR", "PROGRAM", "SWACQUIR", "ORIGIN")
_NORMALIZED = re.compile(r"siril|pixinsight|pcl", re.IGNORECASE)
"""Programs whose float images run from 0 to 1."""
FULL_SCALE = 65535.0


def units(header: Header) -> Fact:
    """Units of the pixels: "adu", "DN", "electron", or what BUNIT says."""
    found = first_text(header, ("BUNIT",))
    if found is not None:
        text = str(found.value)
        return Fact(_UNITS.get(text.lower(), text[:32]), found.origin)
    if str(header.value("ORIGIN", "")).startswith("2MASS"):
        return Fact("DN", "header ORIGIN")
    return Fact("adu", DEFAULT)


def normalized(header: Header, bitpix: int) -> bool:
    """Whether the pixels are floats that run from 0 to 1."""
    return bitpix < 0 and any(_NORMALIZED.search(str(header.value(k, ""))) for k in SOFTWARE)


def gain(header: Header, unit: Fact, exposure: Fact, *, bitpix: int) -> Fact:
    """Electrons a unit of the pixels (e-/DN); NaN where no header tells."""
    name = str(unit.value)
    if name == "electron":
        return Fact(1.0, unit.origin)
    if _ELECTRONS_A_SECOND.match(name):
        if quantity(exposure) > 0:
            return Fact(quantity(exposure), f"{unit.origin}, {exposure.origin}")
        return UNKNOWN_NUMBER
    if normalized(header, bitpix):
        # EGAIN is of the camera's ADU; how many of them make 1.0 no header tells.
        return UNKNOWN_NUMBER
    for keyword in _GAIN_KEYWORDS:
        found = number(header, keyword)
        if found is None or not 0.0 < found <= 1000.0:
            continue
        said = comment(header, keyword)
        if DN_PER.search(said):
            return Fact(1.0 / found, f"header {keyword}")
        if keyword in _GAIN_ALONE or PER_DN.search(said):
            return Fact(found, f"header {keyword}")
    return UNKNOWN_NUMBER


def saturation(header: Header, *, bitpix: int, bzero: float) -> Fact:
    """Level at which pixels saturate (units of the pixels); the range of integers bounds it."""
    for keyword in ("SATURATE", "SATLEVEL", "SATURAT", "SATURATA", "MAXLIN"):
        found = number(header, keyword)
        if found is not None and found > 0:
            return Fact(found, f"header {keyword}")
    found = number(header, "DATAMAX")
    # Many programs write the brightest pixel of this very frame here, which says nothing of the camera.
    if found is not None and found > 1.0 and re.search(r"satur|good|valid", comment(header, "DATAMAX"), re.I):
        return Fact(found, "header DATAMAX")
    if bitpix == 16 and bzero == 32768.0:
        return Fact(FULL_SCALE, DEFAULT)
    if bitpix == 16 and bzero == 0.0 and "BSCALE" not in header:
        return Fact(32767.0, DEFAULT)
    if bitpix == 8 and bzero == 0.0:
        return Fact(255.0, DEFAULT)
    if normalized(header, bitpix):
        return Fact(1.0, DEFAULT)
    return UNKNOWN_NUMBER


def pedestal(header: Header, *, bitpix: int) -> Fact:
    """Number that was added to the pixels (units of the pixels), 0 where none was.

    The SBIG extensions (MaxIm DL, APT) state what has to be *added* to get back to zero, so −100 where 100 was
    added; PixInsight states what has to be *subtracted*, in units of 1/65535 of full scale. Nobody ever adds a
    negative pedestal, so the sign is ignored, as PixInsight does (pixinsight.com, forum.old topic 7056).
    """
    found = number(header, "PEDESTAL")
    if found is None or abs(found) > FULL_SCALE:
        return Fact(0.0, DEFAULT)
    # In a picture from 0 to 1 a number above 1 can only be of the 16-bit scale.
    scale = FULL_SCALE if normalized(header, bitpix) and abs(found) > 1.0 else 1.0
    return Fact(abs(found) / scale, "header PEDESTAL")


def read_noise(header: Header, electrons: float) -> Fact:
    """Read noise (e-); a header that says DN is converted by the gain."""
    for keyword in ("RDNOISE", "READNOIS", "RDNOISE1", "RDNOISEA", "RON", "ENOISE", "READOUTN"):
        found = number(header, keyword)
        if found is None or not 0.0 < found < 1000.0:
            continue
        if re.search(r"\b(adu|dn|counts?)\b", comment(header, keyword), re.IGNORECASE) and not PER_DN.search(
            comment(header, keyword)
        ):
            if not math.isfinite(electrons):
                continue
            found *= electrons
        return Fact(found, f"header {keyword}")
    return UNKNOWN_NUMBER
