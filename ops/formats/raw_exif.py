"""What a camera wrote about an exposure: the few EXIF tags skyloom needs, wherever their directories lie."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from skyloom.ops.formats.fits_header import Card

EXIF_BYTES = 2**18
"""Bytes of a file's beginning directories are looked for in."""

TAGS = {
    "Make": 0x010F,
    "Model": 0x0110,
    "DateTime": 0x0132,
    "ExifTag": 0x8769,
    "ExposureTime": 0x829A,
    "ISOSpeedRatings": 0x8827,
    "DateTimeOriginal": 0x9003,
    "OffsetTimeOriginal": 0x9011,
    "SubsecTimeOriginal": 0x9291,
    "FocalLength": 0x920A,
}
"""Numbers of the tags that are read; ExifTag says where the EXIF directory is."""
DATE_TAKEN = TAGS["DateTimeOriginal"]
"""The time of the exposure; DateTime may be when the file was written."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8}
_MAGIC = re.compile(rb"II(\x2a\x00|\x55\x00|RO|RS)|MM(\x00\x2a|OR)")
"""Beginnings of TIFF and of the raw formats that are TIFF under another number (Panasonic, Olympus)."""


def exif_tags(head: bytes) -> dict[int, Any]:
    """Tags found in the first bytes of a file: text, whole numbers, or quotients as floats.

    Parameters
    ----------
    head
        Beginning of the file: TIFF, or one with TIFF inside (the boxes CMT1 and CMT2 of CR3, EXIF in a JPEG).

    Returns
    -------
    dict
        By tag; the first of a tag counts. Broken directories give what they have, and never an error.
    """
    found: dict[int, Any] = {}
    for start in _directories(head):
        for tag, value in _read(head[start:]):
            found.setdefault(tag, value)
    return found


def _directories(head: bytes) -> Iterator[int]:
    """Where TIFF headers begin."""
    if _MAGIC.match(head):
        yield 0
    for mark in re.finditer(rb"CMT[12]|Exif\0\0", head):
        if _MAGIC.match(head, mark.end()):
            yield mark.end()


def _read(data: bytes) -> Iterator[tuple[int, Any]]:
    order = "<" if data[:2] == b"II" else ">"
    try:
        waiting = [struct.unpack_from(order + "I", data, 4)[0]]
    except struct.error:
        return
    # One directory and the EXIF directory it names: the further ones are of previews.
    for _ in range(2):
        if not waiting:
            return
        offset = waiting.pop()
        try:
            (count,) = struct.unpack_from(order + "H", data, offset)
        except struct.error:
            return
        for i in range(min(count, 512)):
            try:
                tag, kind, number = struct.unpack_from(order + "HHI", data, offset + 2 + 12 * i)
                if tag not in TAGS.values() or kind not in _SIZES or not 0 < number <= 256:
                    continue
                place = offset + 10 + 12 * i
                if _SIZES[kind] * number > 4:
                    (place,) = struct.unpack_from(order + "I", data, place)
                value = _value(data, place, kind, number, order)
            except struct.error:
                continue
            if tag == TAGS["ExifTag"] and isinstance(value, int):
                waiting = [value]
            elif value is not None:
                yield tag, value


def _value(data: bytes, place: int, kind: int, number: int, order: str) -> Any:
    if kind in (2, 7):
        text = data[place : place + number]
        return text.split(b"\0")[0].decode("latin-1").strip() or None
    if kind in (5, 10):
        over, under = struct.unpack_from(order + ("II" if kind == 5 else "ii"), data, place)
        return over / under if under else None
    return struct.unpack_from(order + {1: "B", 3: "H", 4: "I", 9: "i"}[kind], data, place)[0]


def exif_cards(tags: dict[int, Any]) -> dict[str, Card]:
    """FITS cards of EXIF tags."""
    cards: dict[str, Card] = {}
    camera = _camera(tags.get(TAGS["Make"]), tags.get(TAGS["Model"]))
    if camera:
        cards["INSTRUME"] = Card(camera, "EXIF")
    exposure = tags.get(TAGS["ExposureTime"])
    if isinstance(exposure, int | float) and 0 < exposure < 1e6:
        cards["EXPTIME"] = Card(float(exposure), "s, EXIF")
    iso = tags.get(TAGS["ISOSpeedRatings"])
    if isinstance(iso, int | float) and iso > 0:
        cards["GAIN"] = Card(iso, "ISO, EXIF")
    focal = tags.get(TAGS["FocalLength"])
    if isinstance(focal, int | float) and focal > 0:
        cards["FOCALLEN"] = Card(float(focal), "mm, EXIF")
    cards |= _date(tags)
    return cards


def _camera(make: Any, model: Any) -> str:
    maker, name = str(make or "").strip(), str(model or "").strip()
    if not maker or name.lower().startswith(maker.split()[0].lower()):
        return name or maker
    return f"{maker} {name}".strip()


def _date(tags: dict[int, Any]) -> dict[str, Card]:
    text = str(tags.get(DATE_TAKEN) or tags.get(TAGS["DateTime"]) or "")
    part = str(tags.get(TAGS["SubsecTimeOriginal"]) or "").strip()
    try:
        moment = datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return {}
    if re.fullmatch(r"[0-9]{1,6}", part):
        moment += timedelta(seconds=float(f"0.{part}"))
    offset = re.fullmatch(r"([+-])(\d\d):(\d\d)", str(tags.get(TAGS["OffsetTimeOriginal"]) or "").strip())
    comment = "camera's clock, time zone unknown, EXIF"
    if offset is not None:
        zone = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        if zone < timedelta(hours=15):
            moment = moment.replace(tzinfo=timezone(-zone if offset[1] == "-" else zone)).astimezone(UTC)
            comment = "UTC, EXIF"
    return {"DATE-OBS": Card(moment.replace(tzinfo=None).isoformat(timespec="milliseconds"), comment)}
