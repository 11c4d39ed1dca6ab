"""All that is known of a frame: what the user states, the header, the names of file and folders, in this order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session import camera, sensor
from skyloom.ops.session.band import BROAD, CFA, NO_BAND, band, header_filter
from skyloom.ops.session.bayer import header_bayer
from skyloom.ops.session.cards import comment, first_text, number
from skyloom.ops.session.dates import header_date, header_night
from skyloom.ops.session.fact import DEFAULT, Fact, quantity
from skyloom.ops.session.fields import FIELDS
from skyloom.ops.session.kind import CALIBRATION, calibration_done, combined_frames, header_kind, product
from skyloom.ops.session.names import Name
from skyloom.ops.session.templates import Template

_MILLISECONDS = re.compile(r"\bms(ec)?\b|millisec", re.IGNORECASE)
_EXPOSURES = (
    *(("EXPTIME", 1.0), ("EXPOSURE", 1.0), ("EXP_TIME", 1.0), ("EXPOSUR", 1.0), ("EXP-TIME", 1.0)),
    *(("ITIME", 1.0), ("ONTIME", 1.0), ("EXPOINUS", 1e-6)),
)


def read_facts(
    header: Header,
    path: str,
    *,
    bitpix: int,
    bzero: float = 0.0,
    shape: tuple[int, int] = (0, 0),
    plane: str = "",
    user: Mapping[str, Fact] | None = None,
    templates: Sequence[Template] = (),
) -> tuple[dict[str, Fact], list[str]]:
    """Facts of a frame, and what is odd about them.

    Parameters
    ----------
    header
        Header of the image.
    path
        File, with slashes; its name and its folders' are read where the header is silent.
    bitpix, bzero
        Type of the stored pixels: the range of integers bounds the saturation.
    shape
        Rows, columns (pixels).
    plane
        Colour of a plane of a colour image: "R", "G", "B"; "" for others.
    user
        Facts the user states of this frame; they go before everything else.
    templates
        The user's patterns of names; they go before what names are read for without them.

    Returns
    -------
    facts : dict
        Always every fact that is a column of the session (`skyloom.ops.session.fields`); unknown ones have their
        default and the origin "default". Where known also `object`, `software`, `set_temperature` (°C), `frames`
        (what a master was made of), `calibrated` (what was taken off before), `product` (what it is when it is no
        frame).
    notes : list of str
        Oddities worth telling.
    """
    book = _Book(user or {}, templates, path)
    name = book.name
    notes: list[str] = []
    kind = _kind(book, header)
    exposure = book.settle("exposure", _exposure(header), name.exposure)
    _dates(book, header, quantity(exposure))
    pattern, colour = (None, None) if plane else header_bayer(header, shape[0])
    if "bayer" in book.user:
        colour = book.user["bayer"] if book.user["bayer"].value else None
    book.settle("bayer", pattern)
    _filters(book, header, kind, colour, plane, notes)
    if colour is not None and not book.facts["bayer"].value:
        notes.append(
            f"colour filter array {colour.value} ({colour.origin}): only Bayer patterns can be taken apart"
        )
    _pixels(book, header, bitpix, bzero)
    _camera(book, header, shape, notes)
    for text, keywords in (("object", ("OBJECT", "OBJNAME", "TARGNAME")), ("software", sensor.SOFTWARE)):
        book.settle(text, first_text(header, keywords))
    for extra, fact in (
        ("set_temperature", camera.set_point(header)),
        ("frames", combined_frames(header)),
        ("calibrated", calibration_done(header)),
    ):
        book.settle(extra, fact)
    book.settle("product", product(header, name.stem))
    if not book.facts["product"].value:
        del book.facts["product"]
    if "calibrated" in book.facts and kind in ("light", "unknown"):
        notes.append(f"calibrated before: {book.facts['calibrated'].value} ({book.facts['calibrated'].origin})")
    return book.facts, notes


class _Book:
    """The facts so far; each is settled once, by the first that knows it."""

    def __init__(self, user: Mapping[str, Fact], templates: Sequence[Template], path: str) -> None:
        self.user = user
        self.name = Name(path)
        self.facts: dict[str, Fact] = {}
        self.named: dict[str, Fact] = {}
        for template in templates:
            for key, fact in template.facts(path).items():
                self.named.setdefault(key, fact)

    def settle(self, key: str, header: Fact | None, name: Callable[[], Fact | None] | None = None) -> Fact:
        """Take the user's word, else the header's, else a template's, else the name's, else the default.

        A fact that is no column is left out where nobody knows it.
        """
        fact = self.user.get(key) or header or self.named.get(key) or (name() if name is not None else None)
        if fact is None:
            field = FIELDS.get(key)
            fact = Fact(field.default if field is not None else "", DEFAULT)
            if key not in ("product",) and (field is None or not field.column):
                return fact
        self.facts[key] = fact
        return fact


def _kind(book: _Book, header: Header) -> str:
    stated, master = header_kind(header)
    found = book.settle("kind", stated, book.name.kind)
    kind = str(found.value)
    said: Fact | None = None
    if master and stated is not None:
        said = Fact(True, stated.origin)
    elif kind in CALIBRATION and (count := combined_frames(header)) is not None:
        said = Fact(True, count.origin)
    book.settle("master", said, (lambda: book.name.master(kind)) if kind != "unknown" else None)
    return kind


def _exposure(header: Header) -> Fact | None:
    for keyword, factor in _EXPOSURES:
        seconds = number(header, keyword)
        if seconds is None:
            continue
        if _MILLISECONDS.search(comment(header, keyword)):
            factor = 1e-3
        if 0.0 <= seconds * factor < 1e6:
            return Fact(seconds * factor, f"header {keyword}")
    return None


def _dates(book: _Book, header: Header, exposure: float) -> None:
    named = book.name.date()
    date = book.settle("date", header_date(header, exposure), lambda: Fact(named, "file name") if named else None)
    night = header_night(header, date, named)
    stated = book.user.get("night") or (book.named.get("night") if night.origin == DEFAULT else None)
    if stated is None and night.origin == DEFAULT and (day := book.name.folder_day()):
        stated = Fact(day, "folder name")
    book.facts["night"] = stated or night


def _filters(book: _Book, header: Header, kind: str, colour: Fact | None, plane: str, notes: list[str]) -> None:
    """Settle filter and band."""
    for one, other in (("filter", "band"), ("band", "filter")):
        if other in book.named and one not in book.named:
            book.named[one] = book.named[other]
    stated = book.user.get("band")
    if stated is not None and "filter" not in book.user and stated.value not in (CFA, NO_BAND):
        chosen: Fact = stated
        book.facts["filter"] = chosen
    elif kind in ("bias", "dark", "flatdark") and "filter" not in book.user:
        chosen = book.facts["filter"] = Fact("", DEFAULT)
    else:
        chosen = book.settle("filter", header_filter(header), book.name.filter)
    if chosen.value == CFA:
        chosen = book.facts["filter"] = Fact("", chosen.origin)
    if colour is not None and chosen.value in BROAD and not chosen.origin.startswith("user"):
        origin = chosen.origin.removeprefix("header ")
        notes.append(
            f"{origin} says {chosen.value}, but the sensor has a Bayer pattern ({colour.origin}): band {CFA}"
        )
    book.facts["band"] = stated or band(kind, chosen, colour=colour, plane=plane)


def _pixels(book: _Book, header: Header, bitpix: int, bzero: float) -> None:
    unit = book.settle("units", sensor.units(header))
    gain = book.settle("gain", sensor.gain(header, unit, book.facts["exposure"], bitpix=bitpix))
    book.settle("saturation", sensor.saturation(header, bitpix=bitpix, bzero=bzero))
    book.settle("pedestal", sensor.pedestal(header, bitpix=bitpix))
    book.settle("read_noise", sensor.read_noise(header, quantity(gain)))


def _camera(book: _Book, header: Header, shape: tuple[int, int], notes: list[str]) -> None:
    name = book.name
    book.settle("camera", first_text(header, ("INSTRUME", "CAMERA", "DETECTOR", "CAMERAID")), name.camera)
    book.settle("temperature", camera.temperature(header), name.temperature)
    book.settle("gain_setting", camera.gain_setting(header), name.gain_setting)
    book.settle("offset_setting", camera.offset_setting(header), name.offset_setting)
    binning = book.settle("binning", camera.header_binning(header), name.binning)
    book.settle("rotation", camera.rotation(header), name.rotation)
    pointing = camera.pointing(header)
    for index, key in enumerate(("ra", "dec")):
        book.settle(key, pointing[index] if pointing is not None else None)
    for key, keywords in (("trim", camera.TRIM), ("overscan", camera.OVERSCAN)):
        section, odd = camera.header_section(header, keywords, shape)
        book.settle(key, section)
        if odd and key not in book.user:
            notes.append(odd)
    book.settle("telescope", camera.telescope(header))
    book.settle("pixel_size", camera.pixel_size(header, str(binning.value)))
    book.settle("focal_length", camera.focal_length(header))
