"""What is in a FITS file: the images that are frames, their plans and content ids; or why there is none."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from skyloom.ops.formats.byte_file import facts_of, full_name, open_file, pread
from skyloom.ops.formats.fits_frames import CFA_KEYWORDS, frames_among, is_companion, part_names, planes
from skyloom.ops.formats.fits_header import BLOCK, Card, Header
from skyloom.ops.formats.fits_lookup import lookup_tables, refers_to_tables
from skyloom.ops.formats.fits_pixels import FitsSource, physical
from skyloom.ops.formats.fits_stream import Stream, codec_of
from skyloom.ops.formats.fits_tiling import tiling
from skyloom.ops.formats.fits_units import Unit, axes, bitpix, check_simple, number, units
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.formats.plain_pixels import SAMPLE_BYTES, content_id, sample_offsets

__all__ = [
    "BLOCK",
    "SUFFIXES",
    "Card",
    "FitsSource",
    "FrameFile",
    "Header",
    "UnusableFile",
    "examine",
    "matches",
    "physical",
]

SUFFIXES = (".fit", ".fits", ".fts", ".fz", ".gz", ".bz2", ".z")
"""Ends of the names of FITS files (lower case)."""
DEFLATE_RATIO = 1032
"""Bytes a byte of gzip can stand for at most."""


def matches(head: bytes) -> bool:
    """Say whether a file that begins so is, or may hold, FITS."""
    return head.startswith(b"SIMPLE  =") or bool(codec_of(head))


def examine(path: str | Path) -> list[FrameFile]:
    """Plan, headers and content id of the frames in a FITS file, from a few short reads.

    The frame is the primary image; where that has no pixels, the image extensions that are pictures of their own
    (the chips of a camera, repeated exposures), not their companions (errors, data quality, weights). An image has
    two axes and any of length 1, or three planes: R, G and B, a frame each.

    Raises
    ------
    UnusableFile
        If there is no such image, or the file is not what its headers promise; the reason has numbers and remedy.
    """
    name = os.fspath(path)
    try:
        with open_file(name) as file:
            facts = facts_of(file)
            head = file.read(64)
    except OSError as failure:
        raise UnusableFile(name, f"cannot be read: {failure.strerror or failure}") from failure
    codec = codec_of(head)
    if not codec:
        check_simple(name, head, facts.st_size)
    try:
        with Stream(name, codec) as stream:
            return _frames(_Facts(name, codec, facts.st_size, facts.st_mtime_ns), stream)
    except OSError as failure:
        raise UnusableFile(name, f"cannot be read: {failure.strerror or failure}") from failure


class _Facts(NamedTuple):
    """What is known of a file before its headers are read."""

    path: str
    codec: str
    size: int
    mtime_ns: int


class _Image(NamedTuple):
    """A unit whose image may be a frame, or three."""

    unit: Unit
    headers: int
    """Units up to this one."""
    sources: list[FitsSource]
    bands: tuple[str, ...]


def _frames(facts: _Facts, stream: Stream) -> list[FrameFile]:
    walk = _Walk(facts, stream)
    walk.run()
    if not walk.images:
        if walk.refused is not None:
            raise walk.refused
        extensions = len(walk.headers) - 1
        held = f"extensions: {extensions}, none of them a frame" if extensions else "only a header"
        raise UnusableFile(facts.path, f"no image in this FITS file ({held}); nothing to integrate")
    units_found = [image.unit for image in walk.images]
    chosen = units_found[:1] if units_found[0].index == 0 else frames_among(facts.path, units_found)
    others = len(units_found) + walk.following - len(chosen)
    used = chosen[0].label if len(chosen) == 1 else f"{len(chosen)}, {chosen[0].label} and its like,"
    notes = [f"{others + len(chosen)} images in the file: only {used} is used"] if others else []
    if walk.broken is not None:
        notes.append(f"the file is damaged behind its images: {walk.broken.reason}")
    found = _length(facts, stream, walk.images[-1].unit.end)
    frames: list[FrameFile] = []
    parts = dict(zip((unit.index for unit in chosen), part_names(chosen), strict=True))
    for image in walk.images:
        if image.unit.index not in parts:
            continue
        end = image.unit.data + image.unit.stored
        if found < end:
            cut = walk.broken or UnusableFile(facts.path, _truncated(image, end, found))
            if not frames:
                raise cut
            # What follows a good frame may be cut off.
            notes.append(f"{image.unit.label} is left out: {cut.reason}")
            continue
        frames += _of_image(facts, image, walk, parts[image.unit.index])
    return [replace(frame, notes=(*notes, *frame.notes)) for frame in frames]


class _Walk:
    """Goes through the units of a file and keeps those whose image may be a frame."""

    def __init__(self, facts: _Facts, stream: Stream) -> None:
        self.facts = facts
        self.stream = stream
        self.headers: list[bytes] = []
        self.primary = Header(b"")
        self.images: list[_Image] = []
        self.following = 0
        """Images that follow a primary one."""
        self.refused: UnusableFile | None = None
        """Why the first image that cannot be a frame is none."""
        self.broken: UnusableFile | None = None
        """What ended the walk."""

    def run(self) -> None:
        """Go to the end; as far as needed in a compressed file."""
        facts = self.facts
        end = _gzip_length(facts) if facts.codec == "gzip" else -1
        try:
            for unit in units(facts.path, self.stream, size=facts.size, compressed=bool(facts.codec)):
                self._see(unit)
                if facts.codec and self.images and (self.images[0].unit.index == 0 or unit.end == end):
                    # To see what follows, all of it would have to be decompressed.
                    return
        except UnusableFile as failure:
            if not self.images:
                raise
            # What follows a frame may be broken: the frame is not.
            self.broken = failure

    def _see(self, unit: Unit) -> None:
        path = self.facts.path
        if unit.index == 0:
            if unit.header.value("SIMPLE") is not True:
                raise UnusableFile(
                    path, "SIMPLE is not T: the file itself says it is no standard FITS; write it again"
                )
            if unit.header.value("GROUPS") is True:
                raise UnusableFile(path, "random groups (interferometry), no image; nothing to integrate")
            self.primary = unit.header
        wanted = unit.is_image and not is_companion(unit)
        if self.images and self.images[0].unit.index == 0:
            self.following += wanted
            return
        self.headers.append(unit.header_bytes)
        if not wanted:
            return
        try:
            image = self._image(unit)
        except UnusableFile as failure:
            if unit.index == 0:
                raise
            self.refused = self.refused or failure
            return
        if image is not None:
            self.images.append(image)

    def _image(self, unit: Unit) -> _Image | None:
        """Plans of the frames in an image; None for the empty primary image many programs write."""
        path, header = self.facts.path, unit.header
        lengths = axes(path, header, unit.prefix)
        where = "" if unit.index == 0 else f" in {unit.label}"
        if math.prod(lengths) == 0:
            if unit.index == 0:
                return None
            raise UnusableFile(path, f"an image without pixels{where} ({' x '.join(map(str, lengths))})")
        shape, bands = planes(path, unit)
        bits = bitpix(path, header, f"{unit.prefix}BITPIX")
        bscale, bzero = number(path, header, "BSCALE", 1.0), number(path, header, "BZERO", 0.0)
        if bscale == 0.0:
            raise UnusableFile(path, "broken header: BSCALE = 0 makes all pixels equal; write the file again")
        source = FitsSource(
            path=full_name(path),
            size=self.facts.size,
            mtime_ns=self.facts.mtime_ns,
            shape=shape,
            bitpix=bits,
            offset=unit.data,
            bzero=bzero,
            bscale=bscale,
            blank=_blank(unit) if bits > 0 else None,
            codec=self.facts.codec,
        )
        if unit.tiled:
            plans = [tiling(path, unit, plane) for plane in range(len(bands))]
            sources = [replace(source, tiling=plan) for plan in plans]
        else:
            sources = [replace(source, offset=unit.data + k * source.stored) for k in range(len(bands))]
        return _Image(unit, len(self.headers), sources, bands)


def _blank(unit: Unit) -> int | None:
    """Stored integer that means no data."""
    found = unit.header.value("BLANK")
    if found is None and unit.tiled:
        found = unit.header.value("ZBLANK")
    if isinstance(found, int | float) and not isinstance(found, bool) and float(found).is_integer():
        return int(found)
    return None


def _truncated(image: _Image, end: int, found: int) -> str:
    rows, columns = image.sources[0].shape
    return (
        f"truncated: {columns} x {rows} pixels (BITPIX {image.sources[0].bitpix}) end at byte {end}, the file has "
        f"{found}; copy it again"
    )


def _gzip_length(facts: _Facts) -> int:
    """Length (modulo 2^32) of the last member of a gzip file, which its last bytes tell."""
    with open_file(facts.path) as file:
        return int.from_bytes(pread(file, 4, max(facts.size - 4, 0)), "little")


def _length(facts: _Facts, stream: Stream, end: int) -> int:
    """Bytes of the file, decompressed; as far as they are needed to tell that they reach `end`."""
    if not facts.codec:
        return facts.size
    if facts.codec == "gzip":
        found = _gzip_length(facts)
        # When the trailer does not look like one of a FITS file of at least this length, decompressing tells.
        if found % BLOCK == 0 and end <= found <= DEFLATE_RATIO * facts.size:
            return found
    return stream.length()


def _of_image(facts: _Facts, image: _Image, walk: _Walk, part: str) -> Iterator[FrameFile]:
    """Frames of an image: one, or one for each colour."""
    unit = image.unit
    headers = walk.headers[: image.headers]
    below = unit.header.below(walk.primary) if unit.index else unit.header
    notes = []
    if below.odd:
        notes.append(f"{below.odd} header card(s) violate the FITS standard and were skipped or guessed")
    for plane, (source, band) in enumerate(zip(image.sources, image.bands, strict=True)):
        header, said = below, list(notes)
        # Never half of one WCS and half of another.
        own = "CTYPE1" in unit.header
        wcs = unit.header if own else header
        if band:
            text = f"plane {plane + 1} of {len(image.bands)}"
            header = header.changed({"COLORPLN": Card(band, f"skyloom: {text}")}, without=CFA_KEYWORDS)
            said.append(f"{text} of a colour image, taken as {band}")
        digest = _header_digest(headers, band)
        yield FrameFile(
            source=source,
            header=header,
            wcs_header=wcs,
            content=_content(facts, headers, source, unit, band),
            header_digest=digest,
            bitpix=source.bitpix,
            bzero=source.bzero,
            codec=source.codec,
            band=band,
            part=" ".join(p for p in (part, band) if p),
            notes=tuple(said),
            tables=partial(lookup_tables, facts.path, unit.index if own else 0) if refers_to_tables(wcs) else None,
            digest_plain=partial(_plain_digest, source, digest),
        )


def _header_digest(headers: Sequence[bytes], band: str) -> str:
    return hashlib.blake2b(b"".join([*headers, band.encode()]), digest_size=8).hexdigest()


def _content(facts: _Facts, headers: Sequence[bytes], source: FitsSource, unit: Unit, band: str) -> str:
    """Content id; of a compressed file the samples are of the compressed bytes."""
    first, count = (0, facts.size) if facts.codec else (source.offset, source.stored)
    return content_id(facts.path, facts.size, b"".join([*headers, band.encode()]), first, count)


def _plain_digest(source: FitsSource, header_digest: str) -> str:
    digest = hashlib.blake2b(header_digest.encode(), digest_size=8)
    try:
        with Stream(source.path, source.codec) as stream:
            for start in sample_offsets(source.stored):
                digest.update(stream.read_at(source.offset + start, min(SAMPLE_BYTES, source.stored - start)))
    except OSError as failure:
        raise UnusableFile(source.path, f"cannot be read: {failure.strerror or failure}") from failure
    return digest.hexdigest()
