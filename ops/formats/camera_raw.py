"""What is in a camera raw file: the mosaic of its sensor as a frame, or why there is none. LibRaw decodes (rawpy).

Row 0 is the first stored row of the visible sensor area, as in every format; a camera held upright is not turned.
The file is only opened here: whether its pixels decode, reading them tells.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from skyloom.ops.formats.cards import header_of
from skyloom.ops.formats.fits_header import Card
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.formats.plain_pixels import content_id, file_state, plane_digest, read_bytes
from skyloom.ops.formats.raw_exif import EXIF_BYTES, exif_cards, exif_tags
from skyloom.ops.formats.raw_pixels import RawSource, opened

if TYPE_CHECKING:
    import rawpy

SUFFIXES: tuple[str, ...] = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos"),
    *(".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)

_SIGNATURES = (
    re.compile(rb"(II\*\0|MM\0\*)", re.DOTALL),
    re.compile(rb"IIU\0|IIR[OS]|MMOR"),  # Panasonic, Olympus
    re.compile(rb".{4}ftypcrx ", re.DOTALL),  # Canon CR3
    re.compile(rb"II.{4}HEAPCCDR", re.DOTALL),  # Canon CRW
    re.compile(rb"FUJIFILM|\0MRM|FOVb|IIII|MMMM"),  # Fujifilm, Minolta, Sigma, Phase One
)
_OWN = re.compile(rb"IIU\0|IIR[OS]|MMOR|.{4}ftypcrx |II.{4}HEAPCCDR|FUJIFILMCCD-RAW|\0MRM|FOVb", re.DOTALL)
"""Beginnings no other format has."""
_CANON_CR2 = re.compile(rb"(II\*\0|MM\0\*).{4}CR", re.DOTALL)


def matches(head: bytes, suffix: str) -> bool:
    """Say whether a file is a camera raw by its first bytes, or, where they are those of any TIFF, by its name."""
    if _OWN.match(head) or _CANON_CR2.match(head):
        return True
    return suffix.lower() in SUFFIXES and any(s.match(head) for s in _SIGNATURES)


def examine(path: str | Path) -> list[FrameFile]:
    """Frame of a camera raw file. Reads its directories alone.

    Raises
    ------
    UnusableFile
        If LibRaw does not know it, it is broken, or it is no mosaic of red, green and blue pixels in 2x2 blocks;
        the reason has the remedy.
    """
    name = os.fspath(path)
    size, mtime_ns, _ = file_state(name)
    head = read_bytes(name, 0, min(size, EXIF_BYTES))
    with opened(name) as raw:
        return [_examine(name, raw, head, size, mtime_ns)]


def _examine(name: str, raw: rawpy.RawPy, head: bytes, size: int, mtime_ns: int) -> FrameFile:
    sizes = raw.sizes
    shape = (sizes.height, sizes.width)
    if raw.raw_image_visible.ndim != 2:
        raise UnusableFile(
            name,
            f"{raw.num_colors} colours at every pixel (Foveon, linear DNG), no mosaic: save it as 16-bit TIFF",
        )
    if min(shape) < 2 or raw.raw_image_visible.shape != shape:
        raise UnusableFile(name, f"broken raw file: {shape[1]} x {shape[0]} pixels; copy it again")
    colours, levels = _phases(name, raw)
    black = min(levels)
    excess = (levels[0] - black, levels[1] - black, levels[2] - black, levels[3] - black)
    white = _white_level(raw, max(levels))
    notes: list[str] = []
    cards = exif_cards(exif_tags(head))
    cards |= _libraw_cards(raw, cards)
    if colours:
        cards["BAYERPAT"] = Card(colours, "of the first stored row, LibRaw")
    cards["PEDESTAL"] = Card(black, "black level, in the pixels, LibRaw")
    if white > black:
        cards["SATURATE"] = Card(white - max(excess), "white level, LibRaw")
    if any(excess):
        notes.append(
            f"black levels {', '.join(f'{v:g}' for v in levels)} of the pixels of a block: brought to {black:g}"
        )
    if sizes.pixel_aspect != 1.0:
        notes.append(f"pixels are not square (aspect {sizes.pixel_aspect:g})")
    header = header_of(cards)
    source = RawSource(path=str(Path(name).absolute()), size=size, mtime_ns=mtime_ns, shape=shape, excess=excess)
    return FrameFile(
        source=source,
        header=header,
        wcs_header=header,
        content=content_id(name, size, b"", 0, size),
        header_digest=plane_digest(repr(sorted(cards.items())).encode(), ""),
        bitpix=16,
        bzero=32768.0,
        notes=tuple(notes),
    )


def _phases(name: str, raw: rawpy.RawPy) -> tuple[str, tuple[float, float, float, float]]:
    """Colours ("" = one) and black levels of the first visible 2x2 pixels, row by row."""
    pattern, names = raw.raw_pattern, raw.color_desc.decode("latin-1")
    levels = raw.black_level_per_channel
    if pattern is None or pattern.shape == (1, 1):
        return "", (float(levels[0]),) * 4
    if pattern.shape != (2, 2):
        size = f"{pattern.shape[1]}x{pattern.shape[0]}"
        what = "an X-Trans mosaic" if size == "6x6" else f"a mosaic of {size} pixels"
        raise UnusableFile(name, f"{what}, which is not read: only 2x2 blocks of R, G and B are")
    # The second green has the number 3, and its own black level.
    indices = [int(i) for i in pattern.ravel()]
    top, left = raw.sizes.top_margin % 2, raw.sizes.left_margin % 2
    visible = [indices[2 * ((y + top) % 2) + (x + left) % 2] for y in (0, 1) for x in (0, 1)]
    colours = "".join(names[i] if i < len(names) else "?" for i in visible)
    if sorted(colours) != ["B", "G", "G", "R"]:
        raise UnusableFile(name, f"a mosaic of the colours {colours}, which is not read: only R, G, G and B are")
    a, b, c, d = (float(levels[i]) for i in visible)
    return colours, (a, b, c, d)


def _white_level(raw: rawpy.RawPy, black: float) -> float:
    """Lowest level at which pixels saturate; 0 where it is not known."""
    levels = [raw.white_level, *(raw.camera_white_level_per_channel or ())]
    return float(min((w for w in levels if w > black), default=0))


def _libraw_cards(raw: rawpy.RawPy, known: dict[str, Card]) -> dict[str, Card]:
    """What LibRaw found where the EXIF tags were not."""
    cards: dict[str, Card] = {}
    try:
        other = raw.other
    except (OverflowError, ValueError, OSError):
        # A date no calendar has.
        return cards
    if 0 < other.shutter_speed < 1e6:
        cards["EXPTIME"] = Card(round(float(other.shutter_speed), 6), "s, LibRaw")
    if 0 < other.iso_speed < 1e7:
        cards["GAIN"] = Card(float(other.iso_speed), "ISO, LibRaw")
    if other.timestamp.year > 1970:
        cards["DATE-OBS"] = Card(other.timestamp.isoformat(), "camera's clock, time zone unknown, LibRaw")
    return {k: c for k, c in cards.items() if k not in known}
