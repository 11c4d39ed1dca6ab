"""Filters and bands: common names for what people call their filters."""

from __future__ import annotations

import re

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.cards import EMPTY
from skyloom.ops.session.fact import DEFAULT, Fact

CFA = "CFA"
"""Band of a frame of a colour sensor, whatever filter was in front of it."""
NO_BAND = "none"

_BANDS = {
    "L": "l lum luminance lumi clearl",
    "R": "r red",
    "G": "g green",
    "B": "b blue",
    "Ha": "ha halpha halfa hα hydrogenalpha",
    "Hb": "hb hbeta hβ",
    "OIII": "oiii o3 oxygeniii",
    "SII": "sii s2 s11 sulfurii sulphurii",
    "NII": "nii n2",
    "J": "j",
    "H": "h",
    "K": "k",
    "Ks": "ks",
    "L-eXtreme": "lextreme",
    "L-eNhance": "lenhance",
    "L-Ultimate": "lultimate",
    "L-Pro": "lpro",
    "IRCUT": "ircut uvir uvircut uv/ir uv/ircut",
}
_SYNONYMS = {word: band for band, words in _BANDS.items() for word in words.split()}
_OPEN = re.compile(r"(open|air|empty|clear|blank|block|no ?filter|filter|cfa|osc|rgb|colou?r)$", re.IGNORECASE)
"""Names of wheel positions and sensors, no filters."""
_KEYWORDS = (
    *("FILTER", "FILTERS", "FILTER1", "FILTER2", "FILTER3", "FILTNAM", "FILTNAM1", "FILT"),
    *("BAND", "INSFLNAM"),
)
BROAD = ("L", "R", "G", "B", "J", "H", "K", "Ks", "u", "g", "r", "i", "z", "y")
"""Bands of filters nobody puts in front of a colour sensor."""


def band_of(text: str) -> str:
    """Band a filter's name means: a common name where there is one, otherwise the name itself.

    Lower case g, r, i, z, u stay: they are not the broad G and R.
    """
    text = "".join(c for c in text if c.isprintable()).strip()
    survey = re.match(r"([ugrizyY]|zd|VR)\s+(DECam|SDSS)", text)
    if survey is not None:
        return survey.group(1)
    if text in ("u", "g", "r", "i", "z", "y"):
        return text
    word = re.sub(r"[\s_\-()]|\d+(\.\d+)?nm$", "", text.lower())
    return _SYNONYMS.get(word, text)[:32]


def header_filter(header: Header) -> Fact | None:
    """Filter a header states, by its common name."""
    for keyword in _KEYWORDS:
        value = header.value(keyword)
        if value is None or isinstance(value, bool):
            continue
        # PRISM writes 'Filter_L'.
        band = band_of(re.sub(r"^filter[ _-]+", "", str(value).strip(), flags=re.IGNORECASE))
        if not EMPTY.match(band) and not _OPEN.match(band):
            return Fact(band, f"header {keyword}")
    return None


_LETTER = re.compile(r"(L|R|G|B|Hα|Hβ|S2)$")
_WORD = re.compile(
    r"(lum|luminance|red|green|blue|ha|halpha|hb|hbeta|oiii|o3|sii|nii|ircut|lextreme|lenhance|lultimate|lpro)$",
    re.IGNORECASE,
)


def named_filter(words: list[str]) -> str:
    """Filter the words of a name state; "" where none or more than one."""
    found = {band_of(w) for w in words if _LETTER.match(w) or _WORD.match(w)}
    return found.pop() if len(found) == 1 else ""


def band(kind: str, filter_fact: Fact, *, colour: Fact | None, plane: str) -> Fact:
    """Band a frame contributes to.

    Parameters
    ----------
    kind
        Bias and darks have no band.
    filter_fact
        The filter, "" for none.
    colour
        What says that the sensor has a colour filter array; None for a mono sensor.
    plane
        Colour of a plane of a colour image, "" for others.
    """
    if plane:
        return Fact(plane, "colour plane")
    if kind in ("bias", "dark", "flatdark"):
        return Fact(NO_BAND, DEFAULT)
    if colour is not None:
        return Fact(CFA, colour.origin)
    return filter_fact if filter_fact.value else Fact(NO_BAND, DEFAULT)
