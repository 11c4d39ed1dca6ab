"""What a frame is: light, dark, flat, flat-dark, bias; whether it is a master; or a product that is no frame."""

from __future__ import annotations

import re

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.cards import number
from skyloom.ops.session.fact import Fact

KINDS = ("light", "dark", "flat", "flatdark", "bias", "unknown")
CALIBRATION = ("dark", "flat", "flatdark", "bias")

_KEYWORDS = (
    *("IMAGETYP", "IMAGETYPE", "FRAME", "FRAMETYP", "FRAMETYPE", "SUBTYPE", "OBSTYPE"),
    *("OBSMODE", "EXPTYPE", "VIMTYPE", "PICTTYPE"),
)
_PICTTYPE = {1: "light", 2: "bias", 3: "dark", 4: "flat", 5: "light"}
_COUNTS = ("STACKCNT", "NCOMBINE", "SNAPSHOT", "NSUBS", "NUMFRAME")
"""Frames a master is made of: Siril, IRAF, the SBIG extensions (MaxIm DL)."""


def kind_of(text: str) -> str:
    """Kind a header text or word means; "" for none."""
    word = re.sub(r"[^a-z]", "", text.lower())
    if "flat" in word and ("dark" in word or "bias" in word):
        return "flatdark"
    for kind, marks in (
        ("flat", ("flat",)),
        ("dark", ("dark",)),
        ("bias", ("bias", "zero", "offsetframe")),
        ("light", ("light", "object", "science", "target", "exposureframe", "tricolor", "snapshot")),
    ):
        if any(m in word for m in marks):
            return kind
    return {"sci": "light", "offset": "bias", "sky": "light"}.get(word, "")


def header_kind(header: Header) -> tuple[Fact | None, bool]:
    """Kind a header states, and whether it calls the frame a master."""
    for keyword in _KEYWORDS:
        value = header.value(keyword)
        if keyword == "PICTTYPE":
            code = number(header, keyword)
            found = _PICTTYPE.get(int(code), "") if code is not None else ""
        else:
            found = kind_of(value) if isinstance(value, str) else ""
        if found:
            return Fact(found, f"header {keyword}"), isinstance(value, str) and "master" in value.lower()
    return None, False


def combined_frames(header: Header) -> Fact | None:
    """Number of frames an image was made of, where the header says more than one."""
    for keyword in _COUNTS:
        count = number(header, keyword)
        if count is not None and 1.0 < count < 1e6:
            return Fact(count, f"header {keyword}")
    return None


_WORD = re.compile(
    r"(super|master)?"
    r"(lights?|darkflats?|flatdarks?|darks?|flats?|bias(es)?|(light|dark|flat|bias)frames?|flatfields?)\d*$",
    re.IGNORECASE,
)


def named_kind(words: list[str]) -> tuple[str, bool]:
    """Kind the words of a name state ("" where none or more than one), and whether they name a master."""
    matches = [m for w in words if (m := _WORD.match(w))]
    kinds = {kind_of(m.group(2)) for m in matches}
    kind = kinds.pop() if len(kinds) == 1 else ""
    lower = {w.lower() for w in words}
    return kind, bool(kind) and (
        any(m.group(1) for m in matches) or bool(lower & {"master", "masters", "stacked"})
    )


_PRODUCTS = {"dqmask": "data-quality mask", "wtmap": "weight map", "weight": "weight map", "mask": "mask"}
_PRODUCT_NAMES = (
    # The NOIRLab Community Pipeline tells image, mask and weights apart by one letter of the name only.
    (re.compile(r"(c4d|k4m|ksb)_\d{6}_\d{6}_ood_"), "data-quality mask"),
    (re.compile(r"(c4d|k4m|ksb)_\d{6}_\d{6}_oow_"), "weight map"),
    (re.compile(r".*[._-](weight|wht|weightmap)$", re.IGNORECASE), "weight map"),
    (re.compile(r".*[._-](mask|dqmask|bpm)$", re.IGNORECASE), "mask"),
)


def product(header: Header, stem: str) -> Fact | None:
    """What the image is when it is no frame but belongs to one."""
    text = str(header.value("PRODTYPE", "")).strip().lower()
    if text in _PRODUCTS:
        return Fact(_PRODUCTS[text], "header PRODTYPE")
    return next((Fact(what, "file name") for pattern, what in _PRODUCT_NAMES if pattern.match(stem)), None)


_CALIBRATED = {"B": "bias", "D": "dark", "F": "flat", "S": "stacked"}


def calibration_done(header: Header) -> Fact | None:
    """What was already taken off a frame, as CALSTAT says it (MaxIm DL, ASTAP: letters B, D, F)."""
    letters = str(header.value("CALSTAT", "")).strip().upper()
    steps = [_CALIBRATED[c] for c in letters if c in _CALIBRATED]
    return Fact(", ".join(dict.fromkeys(steps)), "header CALSTAT") if steps and len(letters) < 10 else None
