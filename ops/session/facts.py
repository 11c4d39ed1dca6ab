"""What a frame's header and name say of it: the dialects of capture programs, each fact with its origin.

A fact is looked up under all the keywords programs use for it, in order of how much they can be trusted; then in
the file name and the folder's; then a default. Nothing a header holds raises: what makes no sense is passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from typing import NamedTuple

from skyloom.ops.formats.fits_header import Header

KINDS = ("light", "dark", "flat", "flatdark", "bias", "unknown")


class Fact(NamedTuple):
    """A value and where it is from: "header KEYWORD", "file name", "folder name" or "default"."""

    value: str | float
    origin: str


def read_facts(header: Header, path: str, *, bitpix: int, bzero: float = 0.0) -> dict[str, Fact]:
    """Facts of a frame.

    Parameters
    ----------
    header
        Header of the image.
    path
        File; its name and the folder's are read where the header is silent.
    bitpix, bzero
        Type of the stored pixels: the range of integers bounds the saturation.

    Returns
    -------
    dict
        Always `kind`, `band`, `exposure` (s), `gain` (e-/DN), `saturation` (units of the pixels), `units`, `date`
        (ISO, UTC), `camera`; unknown ones are "unknown", "none", NaN or "" with origin "default". Where known also
        `object`, `software`, `bayer`, `temperature` (°C), `camera_gain`, `camera_offset` (settings of the camera),
        `binning`, `master` ("yes"), `product` (what it is when it is no frame: a mask, a weight map).
    """
    facts: dict[str, Fact] = {}
    file = PurePath(path)
    tokens, folder = _tokens(file.name), _tokens(file.parent.name)
    _kind(facts, header, tokens, folder)
    facts["band"] = _band(header, tokens, folder)
    facts["exposure"] = _exposure(header, file.name)
    facts["date"] = _date(header, file.name)
    facts["camera"] = _text(header, ("INSTRUME", "CAMERA", "DETECTOR", "CAMERAID")) or Fact("", "default")
    _optional(facts, header)
    product = _product(header, _SUFFIX.sub("", file.name))
    if product is not None:
        facts["product"] = product
    facts["units"] = _units(header)
    facts["gain"] = _gain(header, facts, floats=bitpix < 0)
    facts["saturation"] = _saturation(header, bitpix=bitpix, bzero=bzero)
    return facts


def quantity(fact: Fact) -> float:
    """Return a fact as a number; NaN where it is none."""
    return float(fact.value) if isinstance(fact.value, int | float) else math.nan


def _number(header: Header, keyword: str) -> float | None:
    """Finite number of a card, also where it was written as text."""
    value = header.value(keyword)
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_EMPTY = re.compile(r"(none|n/?a|null|unknown|undefined|unspecified|not set|-+|\?+|)$", re.IGNORECASE)


def _text(header: Header, keywords: tuple[str, ...]) -> Fact | None:
    """First printable text of the keywords."""
    for keyword in keywords:
        value = header.value(keyword)
        if value is None or isinstance(value, bool):
            continue
        text = "".join(c for c in str(value) if c.isprintable()).strip()[:64]
        if not _EMPTY.match(text):
            return Fact(text, f"header {keyword}")
    return None


_SUFFIX = re.compile(r"(\.(fits?|fts|fz|gz|bz2))+$", re.IGNORECASE)


_SPELLED = re.compile(
    r"(?<![a-z])(h|o|s|n)[-_ ](alpha|beta|iii|ii)(?![a-z])|(?<![a-z])(dark|flat)[-_ ](flats?|darks?)(?![a-z])",
    re.IGNORECASE,
)


def _tokens(name: str) -> list[str]:
    """Words of a file or folder name, suffixes gone."""
    joined = _SPELLED.sub(lambda m: "".join(g for g in m.groups() if g), _SUFFIX.sub("", name))
    return [t for t in re.split(r"[^0-9A-Za-zα-ω]+", joined) if t]


# --- kind ---

_KIND_KEYWORDS = (
    "IMAGETYP",
    "IMAGETYPE",
    "FRAME",
    "FRAMETYP",
    "SUBTYPE",
    "OBSTYPE",
    "OBSMODE",
    "EXPTYPE",
    "VIMTYPE",
    "PICTTYPE",
)
_PICTTYPE = {1: "light", 2: "bias", 3: "dark", 4: "flat", 5: "light"}


def kind_of(text: str) -> str:
    """Kind a header text or word means; "" for none."""
    word = re.sub(r"[^a-z]", "", text.lower())
    if "flat" in word and ("dark" in word or "bias" in word):
        return "flatdark"
    for kind, marks in (
        ("flat", ("flat",)),
        ("dark", ("dark",)),
        ("bias", ("bias", "zero", "offsetframe")),
        ("light", ("light", "object", "science", "target", "exposureframe")),
    ):
        if any(m in word for m in marks):
            return kind
    return {"sci": "light", "offset": "bias", "sky": "light"}.get(word, "")


_KIND_TOKEN = re.compile(
    r"(master)?(lights?|darkflats?|flatdarks?|darks?|flats?|bias(es)?|(light|dark|flat|bias)frames?|flatfields?)\d*$",
    re.IGNORECASE,
)


def _kind(facts: dict[str, Fact], header: Header, tokens: list[str], folder: list[str]) -> None:
    facts["kind"] = Fact("unknown", "default")
    for keyword in _KIND_KEYWORDS:
        value = header.value(keyword)
        if keyword == "PICTTYPE":
            number = _number(header, keyword)
            found = _PICTTYPE.get(int(number), "") if number is not None else ""
        else:
            found = kind_of(value) if isinstance(value, str) else ""
        if found:
            facts["kind"] = Fact(found, f"header {keyword}")
            if isinstance(value, str) and "master" in value.lower():
                facts["master"] = Fact("yes", f"header {keyword}")
            return
    for words, origin in ((tokens, "file name"), (folder, "folder name")):
        matches = [m for t in words if (m := _KIND_TOKEN.match(t))]
        kinds = {kind_of(m.group(0)) for m in matches}
        if len(kinds) == 1:
            facts["kind"] = Fact(kinds.pop(), origin)
            if any(m.group(1) for m in matches) or "master" in (t.lower() for t in words):
                facts["master"] = Fact("yes", origin)
            return


# --- band ---

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
}
_SYNONYMS = {word: band for band, words in _BANDS.items() for word in words.split()}
_OPEN = re.compile(r"(open|air|empty|clear|blank|no ?filter|filter)$", re.IGNORECASE)
_FILTER_KEYWORDS = ("FILTER", "FILTER1", "FILTER2", "FILTER3", "FILTNAM", "FILTNAM1", "FILT", "BAND", "INSFLNAM")


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


_BAND_TOKEN = re.compile(r"(L|R|G|B|Hα|Hβ|S2)$")
_BAND_WORD = re.compile(r"(lum|luminance|red|green|blue|ha|halpha|hb|hbeta|oiii|o3|sii|nii)$", re.IGNORECASE)


def _band(header: Header, tokens: list[str], folder: list[str]) -> Fact:
    for keyword in _FILTER_KEYWORDS:
        value = header.value(keyword)
        if value is None or isinstance(value, bool):
            continue
        band = band_of(str(value))
        if not _EMPTY.match(band) and not _OPEN.match(band):
            return Fact(band, f"header {keyword}")
    for words, origin in ((tokens, "file name"), (folder, "folder name")):
        found = {band_of(t) for t in words if _BAND_TOKEN.match(t) or _BAND_WORD.match(t)}
        if len(found) == 1:
            return Fact(found.pop(), origin)
    return Fact("none", "default")


# --- exposure ---

_EXPOSURE_KEYWORDS = (
    ("EXPTIME", 1.0),
    ("EXPOSURE", 1.0),
    ("EXP_TIME", 1.0),
    ("EXPOSUR", 1.0),
    ("EXP-TIME", 1.0),
    ("ITIME", 1.0),
    ("ONTIME", 1.0),
    ("EXPOINUS", 1e-6),
)
_EXPOSURE_NAME = re.compile(r"(?<![0-9A-Za-z.])(\d+(?:\.\d+)?)[ -]?(s|sec|secs|ms)(?![0-9A-Za-z])", re.IGNORECASE)


def _exposure(header: Header, name: str) -> Fact:
    for keyword, factor in _EXPOSURE_KEYWORDS:
        number = _number(header, keyword)
        if number is not None and 0.0 <= number * factor < 1e6:
            return Fact(number * factor, f"header {keyword}")
    found = _EXPOSURE_NAME.findall(name.replace("_", " "))
    if len(found) == 1:
        seconds = float(found[0][0]) * (1e-3 if found[0][1].lower() == "ms" else 1.0)
        return Fact(seconds, "file name")
    return Fact(math.nan, "default")


# --- date ---

_DATE_KEYWORDS = ("DATE-OBS", "DATE-BEG", "DATE_OBS", "DATE-STA", "UTSTART", "DATE-AVG")
_TIME_KEYWORDS = ("TIME-OBS", "UT", "UTC", "UT-OBS", "TIME", "TIME-BEG", "UTC-OBS")
_CLOCK = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?")
_DAYS = (
    (re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"), (1, 2, 3)),
    (re.compile(r"(\d{1,2})/(\d{1,2})/(\d{2}|\d{4})$"), (3, 2, 1)),
    (re.compile(r"(\d{2})(\d{2})(\d{2})$"), (1, 2, 3)),
    (re.compile(r"(\d{4})(\d{2})(\d{2})$"), (1, 2, 3)),
)
_DATE_NAME = re.compile(
    r"(?<!\d)((?:19|20)\d{2})[-_.]?(\d{2})[-_.]?(\d{2})(?:[-_.T ]+(\d{2})[-_.:]?(\d{2})(?:[-_.:]?(\d{2}))?)?(?!\d)"
)


def iso_date(day: str, clock: str = "") -> str:
    """ISO text of a date and a time of day in any of the forms headers use; "" where they make no sense."""
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
        time = _CLOCK.match(rest.strip()) or _CLOCK.match(clock.strip())
        try:
            moment = datetime(year, month, date, tzinfo=UTC)
            if time is not None:
                moment += timedelta(
                    hours=int(time.group(1)), minutes=int(time.group(2)), seconds=float(time.group(3) or 0.0)
                )
        except (ValueError, OverflowError):
            return ""
        if time is None:
            return moment.date().isoformat()
        return moment.isoformat(timespec="milliseconds").removesuffix("+00:00")
    return ""


def _date(header: Header, name: str) -> Fact:
    clocks = [str(header.value(k)) for k in _TIME_KEYWORDS if _CLOCK.match(str(header.value(k, "")).strip())]
    clock = clocks[0] if clocks else ""
    for keyword in _DATE_KEYWORDS:
        text = iso_date(str(header.value(keyword, "")), clock)
        if text:
            return Fact(text, f"header {keyword}")
    for keyword, zero in (("MJD-OBS", 2400000.5), ("MJD-BEG", 2400000.5), ("JD", 0.0), ("JD-OBS", 0.0)):
        number = _number(header, keyword)
        if number is not None and 2300000.0 < number + zero < 2600000.0:
            moment = datetime(2000, 1, 1, 12, tzinfo=UTC) + timedelta(days=number + zero - 2451545.0)
            return Fact(moment.isoformat(timespec="milliseconds").removesuffix("+00:00"), f"header {keyword}")
    for keyword in ("UT_DATE", "ORDATE", "DATE"):
        text = iso_date(str(header.value(keyword, "")), clock)
        if text:
            return Fact(text, f"header {keyword}")
    match = _DATE_NAME.search(name)
    if match is not None:
        year, month, day, *time = match.groups()
        clock = ":".join(t or "00" for t in time) if time[0] else ""
        text = iso_date(f"{year}-{month}-{day}", clock)
        if text:
            return Fact(text, "file name")
    return Fact("", "default")


# --- gain, saturation, units ---

_PER_ADU = re.compile(r"(e-?|electrons?)\s*(/|per)\s*(adu|a/?d|dn|count|analog)", re.IGNORECASE)
_ADU_PER = re.compile(r"(adu|dn|counts?)\s*(/|per)\s*(e-?\b|electron)", re.IGNORECASE)
_GAIN_ALONE = ("EGAIN", "GAINA", "ATODGAIN")
"""Keywords that mean e-/ADU without saying so; GAIN is a setting of the camera as often as not."""
_UNITS = {"adu": "adu", "count": "adu", "counts": "adu", "dn": "DN", "e-": "electron", "e": "electron"}
_UNITS |= {"electron": "electron", "electrons": "electron"}
_ELECTRONS_A_SECOND = re.compile(r"(e-?|electrons?)\s*(/\s*s(ec)?|\s*s-1)$", re.IGNORECASE)
_SOFTWARE_KEYWORDS = ("SWCREATE", "SOFTWARE", "CREATOR", "PROGRAM", "ORIGIN")
_NORMALIZED = re.compile(r"siril|pixinsight|pcl", re.IGNORECASE)
"""Programs whose float images run from 0 to 1."""


def _units(header: Header) -> Fact:
    found = _text(header, ("BUNIT",))
    if found is not None:
        text = str(found.value)
        return Fact(_UNITS.get(text.lower(), text[:32]), found.origin)
    if str(header.value("ORIGIN", "")).startswith("2MASS"):
        return Fact("DN", "header ORIGIN")
    return Fact("adu", "default")


def _normalized(header: Header, floats: bool) -> bool:
    return floats and any(_NORMALIZED.search(str(header.value(k, ""))) for k in _SOFTWARE_KEYWORDS)


def _gain(header: Header, facts: dict[str, Fact], *, floats: bool) -> Fact:
    units = str(facts["units"].value)
    if units == "electron":
        return Fact(1.0, facts["units"].origin)
    if _ELECTRONS_A_SECOND.match(units):
        exposure = facts["exposure"]
        if quantity(exposure) > 0:
            return Fact(quantity(exposure), f"{facts['units'].origin}, {exposure.origin}")
        return Fact(math.nan, "default")
    if _normalized(header, floats):
        # EGAIN is of the camera's ADU; how many of them make 1.0 no header tells.
        return Fact(math.nan, "default")
    for keyword in ("EGAIN", "GAIN", "GAIN1", "GAINA", "CCDGAIN", "ATODGAIN"):
        number = _number(header, keyword)
        if number is None or not 0.0 < number <= 1000.0:
            continue
        comment = header[keyword].comment
        if _ADU_PER.search(comment):
            return Fact(1.0 / number, f"header {keyword}")
        if keyword in _GAIN_ALONE or _PER_ADU.search(comment):
            return Fact(number, f"header {keyword}")
    return Fact(math.nan, "default")


def _saturation(header: Header, *, bitpix: int, bzero: float) -> Fact:
    for keyword in ("SATURATE", "SATLEVEL", "SATURAT", "SATURATA", "MAXLIN"):
        number = _number(header, keyword)
        if number is not None and number > 0:
            return Fact(number, f"header {keyword}")
    number = _number(header, "DATAMAX")
    # Many programs write the brightest pixel of this very frame here, which says nothing of the camera.
    if number is not None and number > 1.0 and re.search(r"satur|good|valid", header["DATAMAX"].comment, re.I):
        return Fact(number, "header DATAMAX")
    if bitpix == 16 and bzero == 32768.0:
        return Fact(65535.0, "default")
    if bitpix == 16 and bzero == 0.0 and "BSCALE" not in header:
        return Fact(32767.0, "default")
    if bitpix == 8 and bzero == 0.0:
        return Fact(255.0, "default")
    if _normalized(header, bitpix < 0):
        return Fact(1.0, "default")
    return Fact(math.nan, "default")


# --- the rest ---


def _optional(facts: dict[str, Fact], header: Header) -> None:
    numbers: tuple[tuple[str, tuple[str, ...], Callable[[float], bool]], ...] = (
        ("temperature", ("CCD-TEMP", "CCDTEMP", "DET-TEMP", "SENSTEMP"), lambda t: -273.15 < t < 100),
        ("camera_gain", ("GAIN",), lambda g: g >= 0),
        ("camera_offset", ("OFFSET", "BLKLEVEL", "BRIGHTNES", "PEDESTAL"), lambda o: True),
        ("binning", ("XBINNING", "BINX", "CCDXBIN"), lambda b: 1 <= b <= 64),
    )
    for name, keywords, sane in numbers:
        for keyword in keywords:
            number = _number(header, keyword)
            if number is not None and sane(number):
                facts[name] = Fact(number, f"header {keyword}")
                break
    for name, text in _texts(header):
        if text is not None:
            facts[name] = text


_PRODUCTS = {"dqmask": "data-quality mask", "wtmap": "weight map", "weight": "weight map", "mask": "mask"}
_PRODUCT_NAMES = (
    # The NOIRLab Community Pipeline tells image, mask and weights apart by one letter of the name only.
    (re.compile(r"(c4d|k4m|ksb)_\d{6}_\d{6}_ood_"), "data-quality mask"),
    (re.compile(r"(c4d|k4m|ksb)_\d{6}_\d{6}_oow_"), "weight map"),
    (re.compile(r".*[._-](weight|wht|weightmap)$", re.IGNORECASE), "weight map"),
    (re.compile(r".*[._-](mask|dqmask|bpm)$", re.IGNORECASE), "mask"),
)


def _product(header: Header, stem: str) -> Fact | None:
    """What the image is when it is no frame but belongs to one."""
    text = str(header.value("PRODTYPE", "")).strip().lower()
    if text in _PRODUCTS:
        return Fact(_PRODUCTS[text], "header PRODTYPE")
    return next((Fact(what, "file name") for pattern, what in _PRODUCT_NAMES if pattern.match(stem)), None)


def _texts(header: Header) -> Iterator[tuple[str, Fact | None]]:
    yield "object", _text(header, ("OBJECT", "OBJNAME", "TARGNAME"))
    yield "software", _text(header, _SOFTWARE_KEYWORDS)
    yield "bayer", _text(header, ("BAYERPAT", "COLORTYP", "CFAPAT"))
