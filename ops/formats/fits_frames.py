"""Which images of a FITS file are frames: chips of a camera yes, masks and weights no, planes as bands."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from skyloom.ops.formats.fits_units import Unit, axes, bitpix
from skyloom.ops.formats.frame_file import UnusableFile

BANDS = ("R", "G", "B")
CFA_KEYWORDS = ("BAYERPAT", "COLORTYP", "CFAPAT", "XBAYROFF", "YBAYROFF")
"""Cards about the mosaic of a colour sensor: untrue of the planes that were made of it."""
COMPANION = frozenset(
    [
        *("ERR", "ERROR", "ERRORS", "VAR", "VARIANCE", "UNCERT", "UNCERTAINTY", "SIGMA", "RMS", "NOISE", "RNOISE"),
        *("DQ", "DQMASK", "MASK", "BPM", "BADPIX", "FLG", "FLAG", "FLAGS", "QUALITY", "SEG", "SEGMENTATION"),
        *("WHT", "WEIGHT", "WEIGHTS", "IVAR", "INVVAR", "COVERAGE", "NEXP", "CON", "CTX", "SAMP", "TIME"),
        *("WCSDVARR", "WCSCORR", "IMARR", "HDRLET", "AREA", "POISSON", "PSF", "BKG", "BACKGROUND"),
        *("THUMBNAIL", "PREVIEW"),
    ]
)
"""Words in the name of an extension that belongs to a frame and is none."""
_CHIP_KEYWORDS = (
    *("CCDNUM", "CCDID", "CCDNAME", "CCD_ID", "CHIPID", "CHIP", "CHIPNUM", "DETID", "DETNAM", "DETECTOR"),
    *("ESO DET CHIP ID", "IMAGEID", "AMPNAME", "AMPID", "DETSEC", "DETSECA"),
)
"""What tells the chips of a camera apart."""
_WCS_KEYWORDS = (
    *("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CDELT1", "CDELT2", "CROTA2"),
    *("CD1_1", "CD1_2", "CD2_1", "CD2_2", "PC1_1", "PC1_2", "PC2_1", "PC2_2"),
)
_COLOUR_AXES = ("", "RGB", "COLOR", "COLOUR", "BAND", "CHANNEL")
_LIKE_SIZE = 0.75
"""Chips of one camera have sides that differ by no more than this; guide and focus chips are smaller."""


def is_companion(unit: Unit) -> bool:
    """Say whether an extension belongs to a frame and is none, by its name."""
    words = re.findall(r"[A-Z]+", unit.name)
    return not COMPANION.isdisjoint(words)


def planes(path: str, unit: Unit) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Shape (rows, columns) of the frames in an image, and the band of each: ("",) for a single plane.

    Raises
    ------
    UnusableFile
        If it is neither one plane nor three colours.
    """
    header = unit.header
    lengths = axes(path, header, unit.prefix)
    where = "" if unit.index == 0 else f" in {unit.label}"
    while len(lengths) > 2 and lengths[-1] == 1:
        lengths.pop()
    if len(lengths) < 2:
        raise UnusableFile(path, f"a row of {lengths[0]} values{where}, no image")
    shape = (lengths[1], lengths[0])
    if len(lengths) == 2:
        return shape, ("",)
    text = f"{' x '.join(map(str, lengths))} pixels{where}"
    if lengths[0] in (3, 4) and lengths[2] > 4:
        raise UnusableFile(
            path,
            f"{text}: colours interleaved pixel by pixel are not read; save it with three planes (NAXIS3 = 3)",
        )
    count = math.prod(lengths[2:])
    along = str(header.value("CTYPE3", "")).strip().upper()
    what = f"{count} planes of {lengths[0]} x {lengths[1]} pixels{where}"
    if len(lengths) == 3 and count == 3:
        if along in _COLOUR_AXES:
            return shape, BANDS
        raise UnusableFile(path, f"{what} along {along}, no colours; save each plane that is a frame in a file")
    alpha = "; if the fourth is an alpha channel, save it without" if count == 4 else ""
    raise UnusableFile(
        path,
        f"{what}: a colour image has 3{alpha}; if each plane is an exposure, save each in a file of its own",
    )


def frames_among(path: str, units: Sequence[Unit]) -> list[Unit]:
    """Those of several image extensions that are frames.

    The frames are the largest set of images that are alike (type of numbers, about the size) and of which each has
    something that makes it a picture of its own: another version number of the same name, another chip, a name
    that differs by its number only, or a WCS that points elsewhere. Weights and masks have the WCS of their image.

    Returns
    -------
    list of Unit
        In the order of the file; one at least.
    """
    best: list[Unit] = []
    for first in units:
        alike = [u for u in units if u is first or _is_sibling(path, first, u)]
        if len(alike) > len(best):
            best = alike
    return best


def part_names(frames: Sequence[Unit]) -> list[str]:
    """Names that tell the frames of a file apart; "" where there is only one."""
    if len(frames) == 1:
        return [""]
    names = [u.name for u in frames]
    if len(set(names)) < len(names):
        names = [f"{u.name or 'EXT'}{u.header.value('EXTVER', u.index) if u.name else u.index}" for u in frames]
    if "" in names or len(set(names)) < len(names):
        names = [f"EXT{u.index}" for u in frames]
    return names


def _is_sibling(path: str, first: Unit, other: Unit) -> bool:
    if bitpix(path, first.header, f"{first.prefix}BITPIX") != bitpix(path, other.header, f"{other.prefix}BITPIX"):
        return False
    for a, b in zip(axes(path, first.header, first.prefix), axes(path, other.header, other.prefix), strict=False):
        if min(a, b) < _LIKE_SIZE * max(a, b):
            return False
    return _has_identity(first, other)


def _has_identity(first: Unit, other: Unit) -> bool:
    """Say whether something tells that two images are of different sky, chip or time."""
    if first.name and first.name == other.name:
        return True
    stem = re.sub(r"\d+", "", first.name)
    if stem and stem == re.sub(r"\d+", "", other.name):
        return True
    a, b = first.header, other.header
    if any(k in a and k in b and a[k].value != b[k].value for k in _CHIP_KEYWORDS):
        return True
    return "CTYPE1" in a and "CTYPE1" in b and any(a.value(k) != b.value(k) for k in _WCS_KEYWORDS)
