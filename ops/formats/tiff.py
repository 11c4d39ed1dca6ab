"""What is in a TIFF file: the frames of its first image, or why there is none.

Row 0 is the first stored row, as in every format.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyloom.ops.formats.cards import STRUCTURAL, header_of, with_rows_reversed
from skyloom.ops.formats.fits_header import CARD, Card, Header
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.formats.plain_pixels import content_id, file_state, plane_digest
from skyloom.ops.formats.raw_exif import DATE_TAKEN, TAGS, exif_cards

if TYPE_CHECKING:
    from tifffile import TiffPage

SUFFIXES: tuple[str, ...] = (".tif", ".tiff")

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Classic and BigTIFF, little- and big-endian."""

_BITPIX = {
    ("u", 1): (8, 0.0),
    ("u", 2): (16, 2.0**15),
    ("u", 4): (32, 2.0**31),
    ("u", 8): (64, 2.0**63),
    ("i", 1): (8, -128.0),
    ("i", 2): (16, 0.0),
    ("i", 4): (32, 0.0),
    ("i", 8): (64, 0.0),
    ("f", 2): (-32, 0.0),
    ("f", 4): (-32, 0.0),
    ("f", 8): (-64, 0.0),
}
"""How FITS says what type the numbers are (BITPIX, BZERO)."""
_PLACES = {273, 279, 324, 325}
"""Tags of where strips and tiles are: of no interest in a digest of the header."""
_GREY, _RGB, _FILTERED = 1, 2, 32803
_COLOURS = {
    0: "a negative (white is 0)",
    3: "a picture with a palette",
    4: "a mask",
    5: "colours for print (CMYK)",
    6: "colours as YCbCr",
    8: "colours as CIELab",
    34892: "a linear raw of three colours",
}
_EXPANSION = {"LZW": 4096, "ADOBE_DEFLATE": 1040, "DEFLATE": 1040, "PACKBITS": 128}
"""Bytes one compressed byte can stand for at most: a file that promises more is corrupt."""


def matches(head: bytes, suffix: str) -> bool:
    """Say whether the first bytes of a file are those of TIFF; camera raws that are TIFF have other names."""
    return head.startswith(SIGNATURES) and suffix.lower() in (*SUFFIXES, "")


def examine(path: str | Path) -> list[FrameFile]:
    """Frames of the first image in a TIFF file: one, or three with bands R, G and B. Reads directories alone.

    Raises
    ------
    UnusableFile
        If there is none, or the file is not what its tags promise; the reason has numbers and remedy.
    """
    name = os.fspath(path)
    size, mtime_ns, head = file_state(name)
    if not head.startswith(SIGNATURES):
        raise UnusableFile(name, f"not a TIFF file: it begins with {head[:4]!r}")
    page, pages = first_page(name)
    try:
        return _examine(name, page, pages, size, mtime_ns)
    except UnusableFile:
        raise
    # Tags of the wrong type or number: tifffile and numpy trip over them as they like.
    except Exception as failure:
        raise UnusableFile(name, f"broken TIFF: {failure}; write the file again") from failure


def first_page(name: str) -> tuple[TiffPage, int]:
    """First image of a TIFF file, usable without the file, and how many there are (2 = several).

    Raises
    ------
    UnusableFile
        If tifffile cannot read the directory.
    """
    import tifffile

    # It logs what it finds odd; whoever has set no handler would see that on the terminal.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    try:
        with tifffile.TiffFile(name, _multifile=False) as file:
            page = file.pages.first
            if not isinstance(page, tifffile.TiffPage):
                raise UnusableFile(name, "no image in this TIFF file; nothing to integrate")
            for tag in page.tags:
                # Values are read when they are asked for, and that shall be now, not when the file is closed.
                _ = tag.value
            several = 1
            with contextlib.suppress(IndexError):
                several += file.pages[1].index > 0
            return page, several
    except UnusableFile:
        raise
    # struct.error, IndexError, ValueError, MemoryError, RecursionError, …: whatever a broken directory leads to.
    except Exception as failure:
        raise UnusableFile(name, f"broken TIFF: {failure}; write the file again") from failure


def _examine(name: str, page: TiffPage, pages: int, size: int, mtime_ns: int) -> list[FrameFile]:
    from skyloom.ops.formats.tiff_pixels import TiffSource, segments

    height, width, samples = _geometry(name, page)
    bands, notes = _bands(name, page, samples)
    dtype = page.dtype
    assert dtype is not None
    bitpix, bzero = _BITPIX[dtype.kind, dtype.itemsize]
    if pages > 1:
        notes.append("several images in the file: only the first is used")
    end = max(offset + count for offset, count in segments(name, page))
    if end > size:
        raise UnusableFile(
            name,
            f"truncated: {width} x {height} x {samples} pixels end at byte {end}, the file has {size}; "
            "copy it again",
        )
    _check_codec(name, page)
    header = _header(page, (height, width), notes)
    if bitpix < 0:
        notes.append("float pixels: their unit is not known, often 0 to 1 is the whole range")
    # Directories may lie before or behind the pixels: samples of the whole file see both.
    content = content_id(name, size, b"", 0, size)
    tags = "".join(f"{tag.code}={str(tag.value)[:4096]};" for tag in page.tags if tag.code not in _PLACES).encode(
        "utf-8", "replace"
    )
    files = []
    full = str(Path(name).absolute())
    for channel, band in enumerate(bands):
        source = TiffSource.of(page, path=full, size=size, mtime_ns=mtime_ns, channel=channel)
        files.append(
            FrameFile(
                source=source,
                header=header,
                wcs_header=header,
                content=content if not band else plane_digest(content.encode(), band),
                header_digest=plane_digest(tags, band),
                bitpix=bitpix,
                bzero=bzero,
                band=band,
                part=band,
                notes=tuple(notes),
            )
        )
    return files


def _geometry(name: str, page: TiffPage) -> tuple[int, int, int]:
    """Rows, columns, samples a pixel."""
    if 50706 in page.tags:
        raise UnusableFile(name, "a DNG (camera raw) named as TIFF: rename it to .dng")
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    if not (height > 0 and width > 0 and samples > 0):
        raise UnusableFile(name, f"an image without pixels ({width} x {height} x {samples})")
    if page.imagedepth != 1:
        raise UnusableFile(name, f"{page.imagedepth} planes of {width} x {height} pixels: split it into planes")
    dtype = page.dtype
    bits = page.bitspersample
    if dtype is None or (dtype.kind, dtype.itemsize) not in _BITPIX or bits != 8 * dtype.itemsize:
        raise UnusableFile(name, f"pixels of {bits} bits: save it as 16- or 32-bit TIFF")
    return height, width, samples


def _bands(name: str, page: TiffPage, samples: int) -> tuple[tuple[str, ...], list[str]]:
    colours = int(page.photometric)
    used: int
    bands: tuple[str, ...]
    if colours in (_GREY, _FILTERED):
        used, bands = 1, ("",)
    elif colours == _RGB and samples >= 3:
        used, bands = 3, ("R", "G", "B")
    else:
        what = _COLOURS.get(colours, f"colours of kind {colours} with {samples} sample(s)")
        raise UnusableFile(name, f"{what}: save it as grey or RGB TIFF")
    extra = samples - used
    return bands, [f"{extra} further channel(s) (alpha, masks) are not used"] if extra else []


def _check_codec(name: str, page: TiffPage) -> None:
    """Refuse what cannot be decoded here, while it is cheap to say so."""
    from skyloom.ops.formats.tiff_pixels import segments

    codec = getattr(page.compression, "name", str(page.compression))
    decode: Callable[..., Any] = page.decode
    if decode.__name__.startswith("decode_raise"):
        # tifffile makes a decoder that raises, and says why, where it has none.
        try:
            decode(b"", 0)
        except (ValueError, NotImplementedError) as failure:
            if "imagecodecs" not in str(failure):
                raise UnusableFile(name, f"not read ({failure}): save it uncompressed") from failure
            remedy = "`pip install imagecodecs`, or save it uncompressed"
            raise UnusableFile(name, f"compressed with {codec}, which is not read here: {remedy}") from failure
    stored = sum(count for _, count in segments(name, page))
    limit = stored if page.compression == 1 else stored * _EXPANSION.get(codec, 65536) + 4096
    if page.nbytes > limit:
        raise UnusableFile(
            name, f"broken TIFF: {stored} bytes of data ({codec}) for {page.nbytes}; write the file again"
        )


# --- cards ---

_FITS_LINE = re.compile(r"[A-Z0-9_-]{1,8} *=|HIERARCH |COMMENT|HISTORY|CONTINUE|END *$|$")


def _header(page: TiffPage, shape: tuple[int, int], notes: list[str]) -> Header:
    cards = _fits_cards(page.description, top_down=_orientation(page) in (1, 2), shape=shape, notes=notes)
    tags = _exif(page)
    for keyword, card in exif_cards(tags).items():
        if keyword == "DATE-OBS" and DATE_TAKEN not in tags:
            # The tag DateTime alone is when the file was written.
            keyword, card = "DATE", Card(card.value, "TIFF DateTime")
        cards.setdefault(keyword, card)
    software = str(page.software or "").strip()
    if software and "SWCREATE" not in cards:
        cards["SWCREATE"] = Card(software, "TIFF Software")
    if int(page.photometric) == _FILTERED:
        pattern = _pattern(page)
        if pattern:
            cards["BAYERPAT"] = Card(pattern, "TIFF CFAPattern, of the first stored row")
            cards.pop("ROWORDER", None)
    if _orientation(page) != 1:
        notes.append(f"the tag Orientation ({_orientation(page)}) asks for a turned display: rows are as stored")
    return header_of(cards)


def _exif(page: TiffPage) -> dict[int, Any]:
    """Tags of the camera, by number; quotients as floats."""
    found = {tag.code: tag.value for tag in page.tags if tag.code in TAGS.values()}
    exif = found.pop(TAGS["ExifTag"], None)
    if isinstance(exif, dict):
        # tifffile gives the tags of this directory by name.
        found |= {TAGS[name]: value for name, value in exif.items() if name in TAGS}
    return {
        code: value[0] / value[1] if isinstance(value, tuple) and len(value) == 2 and value[1] else value
        for code, value in found.items()
    }


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get(274)
    return tag.value if tag is not None and isinstance(tag.value, int) else 1


def _fits_cards(text: str, *, top_down: bool, shape: tuple[int, int], notes: list[str]) -> dict[str, Card]:
    """Cards of a FITS header in the image description (Astro-TIFF), turned over with the picture.

    Astro-TIFF 1.0 stores the last row of the FITS image first.
    """
    lines = text.replace("\r", "\n").split("\n")
    if not lines[0].startswith("SIMPLE"):
        return {}
    lines = [line for line in lines if _FITS_LINE.match(line)]
    header = Header("".join(line[:CARD].ljust(CARD) for line in lines).encode("latin-1", "replace"))
    cards = {k: c for k, c in header.items() if not STRUCTURAL.match(k)}
    notes.append("FITS header in the image description (Astro-TIFF)")
    if not top_down:
        return cards
    if "CTYPE1" in cards:
        cards = with_rows_reversed(cards, shape[0])
    order = str(header.value("ROWORDER", "")).strip().upper()
    turned = {"TOP-DOWN": "BOTTOM-UP", "BOTTOM-UP": "TOP-DOWN"}.get(order)
    if turned is not None:
        cards["ROWORDER"] = Card(turned, f"{order} in the FITS header, turned over in Astro-TIFF")
    return cards


def _pattern(page: TiffPage) -> str:
    """Colours of the first stored pixels, where the tags say so."""
    size, pattern = page.tags.get(33421), page.tags.get(33422)
    if size is None or pattern is None or tuple(size.value) != (2, 2):
        return ""
    values = tuple(pattern.value)
    return "".join("RGB"[v] for v in values) if len(values) == 4 and all(v in (0, 1, 2) for v in values) else ""
