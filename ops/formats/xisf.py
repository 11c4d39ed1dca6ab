"""What is in an XISF file: the frames of its first image, or why there is none.

Row 0 is the first stored row, as in every format. XISF stores pictures from the top; the WCS keywords PixInsight
writes count rows from the bottom edge, so they are turned over (see `with_rows_reversed`); the pattern of a
ColorFilterArray begins with the first stored pixel.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np

from skyloom.ops.formats.byte_file import full_name
from skyloom.ops.formats.cards import STRUCTURAL, header_of, read_value, with_rows_reversed
from skyloom.ops.formats.fits_header import Card, Header
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.formats.plain_pixels import content_id, plane_digest
from skyloom.ops.formats.xisf_blocks import block_of, bytes_of
from skyloom.ops.formats.xisf_header import PREAMBLE, SIGNATURE, XisfHeader, XisfImage, read_header
from skyloom.ops.formats.xisf_pixels import XisfSource

SUFFIXES: tuple[str, ...] = (".xisf",)

_FORMATS = {
    "UInt8": ("u1", 8, 0.0),
    "UInt16": ("u2", 16, 2.0**15),
    "UInt32": ("u4", 32, 2.0**31),
    "UInt64": ("u8", 64, 2.0**63),
    "Float32": ("f4", -32, 0.0),
    "Float64": ("f8", -64, 0.0),
}
"""Type of the numbers, and how FITS says it (BITPIX, BZERO)."""

_PROPERTIES = (
    # Property, keyword, what its number is multiplied with (None: text), comment, keywords that say it already.
    ("Instrument:ExposureTime", "EXPTIME", 1.0, "s", ("EXPTIME", "EXPOSURE")),
    ("Observation:Time:Start", "DATE-OBS", None, "UTC", ("DATE-OBS",)),
    ("Observation:Time:End", "DATE-END", None, "UTC", ("DATE-END",)),
    ("Observation:Object:Name", "OBJECT", None, "", ("OBJECT",)),
    ("Instrument:Filter:Name", "FILTER", None, "", ("FILTER",)),
    ("Instrument:Camera:Name", "INSTRUME", None, "", ("INSTRUME",)),
    ("Instrument:Camera:Gain", "EGAIN", 1.0, "e-/ADU", ("EGAIN",)),
    ("Instrument:Camera:ISOSpeed", "GAIN", 1.0, "ISO", ("GAIN", "ISOSPEED")),
    ("Instrument:Camera:ReadoutNoise", "RDNOISE", 1.0, "e-", ("RDNOISE", "READNOIS")),
    ("Instrument:Camera:XBinning", "XBINNING", 1.0, "", ("XBINNING",)),
    ("Instrument:Camera:YBinning", "YBINNING", 1.0, "", ("YBINNING",)),
    ("Instrument:Camera:Rotation", "ROTATANG", 1.0, "deg", ("ROTATANG", "ROTATOR", "OBJCTROT", "POSANGLE")),
    ("Instrument:Sensor:Temperature", "CCD-TEMP", 1.0, "C", ("CCD-TEMP",)),
    ("Instrument:Sensor:TargetTemperature", "SET-TEMP", 1.0, "C", ("SET-TEMP",)),
    ("Instrument:Sensor:XPixelSize", "XPIXSZ", 1.0, "um", ("XPIXSZ", "PIXSIZE1")),
    ("Instrument:Sensor:YPixelSize", "YPIXSZ", 1.0, "um", ("YPIXSZ", "PIXSIZE2")),
    # These two are metres in XISF and millimetres in FITS headers.
    ("Instrument:Telescope:FocalLength", "FOCALLEN", 1000.0, "mm", ("FOCALLEN",)),
    ("Instrument:Telescope:Aperture", "APTDIA", 1000.0, "mm", ("APTDIA",)),
    ("Instrument:Telescope:Name", "TELESCOP", None, "", ("TELESCOP",)),
    ("Observation:Center:RA", "RA", 1.0, "deg", ("RA", "OBJCTRA")),
    ("Observation:Center:Dec", "DEC", 1.0, "deg", ("DEC", "OBJCTDEC")),
    ("Observation:Location:Latitude", "SITELAT", 1.0, "deg", ("SITELAT",)),
    ("Observation:Location:Longitude", "SITELONG", 1.0, "deg", ("SITELONG",)),
)
_SOFTWARE = ("SWCREATE", "SOFTWARE", "CREATOR", "PROGRAM")
_IN_COUNTS = ("SATURATE", "SATLEVEL", "SATURAT", "SATURATA", "MAXLIN", "PEDESTAL")
"""Keywords in units of the camera's 16-bit numbers."""


def matches(head: bytes, suffix: str) -> bool:
    """Say whether the first bytes of a file are those of an XISF file, whatever its name."""
    del suffix
    return head.startswith(SIGNATURE)


def examine(path: str | Path) -> list[FrameFile]:
    """Frames of the first image in an XISF file: one, or three with bands R, G and B. Reads the header alone.

    Raises
    ------
    UnusableFile
        If there is none, or the file is not what its header promises; the reason has numbers and remedy.
    """
    name = os.fspath(path)
    try:
        return _examine(name, read_header(name))
    except OSError as failure:
        raise UnusableFile(name, f"cannot be read: {failure.strerror or failure}") from failure


def _examine(name: str, header: XisfHeader) -> list[FrameFile]:
    if not header.images:
        raise UnusableFile(name, "no image in this XISF file; nothing to integrate")
    image = header.images[0]
    attributes = image.attributes
    height, width, channels = _geometry(name, attributes.get("geometry", ""))
    form = attributes.get("sampleFormat", "").strip()
    if form not in _FORMATS:
        raise UnusableFile(name, f"pixels of type {form[:20]!r}: {', '.join(_FORMATS)} are read")
    kind, bitpix, bzero = _FORMATS[form]
    order = ">" if attributes.get("byteOrder", "").strip().lower() == "big" else "<"
    dtype = np.dtype(order + kind)
    bands = _bands(name, attributes.get("colorSpace", "Gray").strip(), channels)
    storage = attributes.get("pixelStorage", "Planar").strip().lower()
    if storage not in ("planar", "normal"):
        raise UnusableFile(name, f"broken header: pixelStorage = {storage[:20]!r}; write the file again")
    size = bytes_of((height, width, channels), dtype.itemsize)
    block = block_of(name, attributes, image.data, size)
    if block.offset >= 0 and block.offset + block.stored > header.size:
        raise UnusableFile(
            name,
            f"truncated: {width} x {height} x {channels} pixels ({form}) end at byte "
            f"{block.offset + block.stored}, the file has {header.size}; copy it again",
        )
    if block.offset >= 0 and block.offset < PREAMBLE + len(header.xml.rstrip(b"\0")):
        raise UnusableFile(name, "broken header: the pixels lie inside of it; write the file again")
    cards, notes = _cards(name, header, image, (height, width), floats=bitpix < 0)
    if len(header.images) > 1:
        notes.append(f"{len(header.images)} images in the file: only the first is used")
    if channels > len(bands):
        notes.append(f"{channels - len(bands)} further channel(s) (alpha, masks) are not used")
    first, count = (block.offset, block.stored) if block.offset >= 0 else (0, header.size)
    content = content_id(name, header.size, header.xml, first, count)
    files = []
    for channel, band in enumerate(bands):
        source = XisfSource(
            path=full_name(name),
            size=header.size,
            mtime_ns=header.mtime_ns,
            shape=(height, width),
            dtype=dtype.str,
            block=block,
            image=0,
            channel=channel,
            channels=channels,
            interleaved=storage == "normal" and channels > 1,
        )
        files.append(
            FrameFile(
                source=source,
                header=cards,
                wcs_header=cards,
                content=content if not band else plane_digest(content.encode(), band),
                header_digest=plane_digest(header.xml, band),
                bitpix=bitpix,
                bzero=bzero,
                band=band,
                part=band,
                notes=tuple(notes),
            )
        )
    return files


def _geometry(name: str, text: str) -> tuple[int, int, int]:
    """Rows, columns, channels."""
    parts = text.split(":")
    if not all(re.fullmatch(r"[0-9]{1,9}", p.strip()) for p in parts) or len(parts) < 2:
        raise UnusableFile(name, f"broken header: geometry = {text[:60]!r}; write the file again")
    if len(parts) != 3:
        raise UnusableFile(name, f"an image of {len(parts) - 1} dimensions ({text}), not two")
    width, height, channels = (int(p) for p in parts)
    if not (width and height and channels):
        raise UnusableFile(name, f"an image without pixels ({width} x {height} x {channels})")
    return height, width, channels


def _bands(name: str, space: str, channels: int) -> tuple[str, ...]:
    if space == "Gray":
        return ("",)
    if space != "RGB":
        raise UnusableFile(name, f"colours as {space[:20]}: convert the image to RGB or Gray")
    if channels < 3:
        raise UnusableFile(name, f"broken header: RGB with {channels} channel(s); write the file again")
    return ("R", "G", "B")


def _cards(
    name: str, header: XisfHeader, image: XisfImage, shape: tuple[int, int], *, floats: bool
) -> tuple[Header, list[str]]:
    """Cards of an image, and oddities."""
    notes: list[str] = []
    cards: dict[str, Card] = {}
    for keyword, text, comment in image.keywords:
        keyword = keyword.strip().upper()
        if keyword and not STRUCTURAL.match(keyword) and keyword not in cards:
            cards[keyword] = Card(read_value(text), comment.strip())
    _add_properties(cards, image.properties)
    _add_attributes(cards, image, header)
    _add_filters(name, cards, image)
    if floats:
        _scale(cards, image, notes)
    if "CTYPE1" in cards:
        cards = with_rows_reversed(cards, shape[0])
    return header_of(cards), notes


def _add_properties(cards: dict[str, Card], properties: dict[str, str]) -> None:
    for name, keyword, factor, unit, same in _PROPERTIES:
        text = properties.get(name, "")
        if not text or any(k in cards for k in same):
            continue
        comment = f"{unit + ', ' if unit else ''}XISF {name}"
        if factor is None:
            value = text.removesuffix("Z") if keyword.startswith("DATE") else text
            cards[keyword] = Card(value, comment)
            continue
        try:
            number = float(text) * factor
        except ValueError:
            continue
        if math.isfinite(number):
            cards[keyword] = Card(number, comment)


def _add_attributes(cards: dict[str, Card], image: XisfImage, header: XisfHeader) -> None:
    kind = image.attributes.get("imageType", "").strip()
    if kind and not any(k in cards for k in ("IMAGETYP", "FRAME", "OBSTYPE")):
        # "MasterDark" → "Master Dark"
        cards["IMAGETYP"] = Card(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind), "XISF imageType")
    offset = read_value(image.attributes.get("offset", ""))
    if isinstance(offset, int | float) and not isinstance(offset, bool) and offset and "PEDESTAL" not in cards:
        cards["PEDESTAL"] = Card(float(offset), "added to the pixels, XISF offset")
    creator = header.properties.get("XISF:CreatorApplication", "")
    if creator and not any(k in cards for k in _SOFTWARE):
        cards["CREATOR"] = Card(creator, "XISF:CreatorApplication")


def _add_filters(name: str, cards: dict[str, Card], image: XisfImage) -> None:
    if image.filters is None:
        return
    pattern = image.filters.get("pattern", "").strip().upper()
    size = f"{image.filters.get('width', '?')[:5]}x{image.filters.get('height', '?')[:5]}"
    if size != "2x2" or not re.fullmatch("[RGB]{4}", pattern):
        raise UnusableFile(
            name, f"a colour filter array of {size} {pattern[:36]!r}: only 2x2 arrays of R, G and B are read"
        )
    for keyword in ("XBAYROFF", "YBAYROFF", "BAYOFFX", "BAYOFFY", "ROWORDER", "COLORTYP", "CFAPAT"):
        # They correct BAYERPAT for how a FITS file was stored; this pattern is that of the stored rows.
        cards.pop(keyword, None)
    cards["BAYERPAT"] = Card(pattern, "XISF ColorFilterArray, of the first stored row")


def _scale(cards: dict[str, Card], image: XisfImage, notes: list[str]) -> None:
    """Bring keywords in 16-bit numbers to the pixels' scale where that is 0…1."""
    bounds = [read_value(b) for b in image.attributes.get("bounds", "").split(":")]
    if bounds != [0, 1]:
        return
    notes.append("float pixels from 0 to 1")
    for keyword in _IN_COUNTS:
        value = cards[keyword].value if keyword in cards else None
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 1.0:
            cards[keyword] = Card(value / 65535.0, f"{value} of 65535")
