"""From a file of any format to the frames in it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from skyloom.ops.formats import fits
from skyloom.ops.formats.byte_file import one_look, open_file
from skyloom.ops.formats.fetched import examine_object
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.objects import is_address

HEAD_BYTES = 64
"""Bytes a format is known by."""


class Format(NamedTuple):
    """A format with a module of its own, which is imported when the first such file is met."""

    name: str
    """What a reason calls one of its files."""
    module: str
    suffixes: tuple[str, ...]
    """Ends of the names of its files (lower case)."""


XISF = Format("an XISF file", "skyloom.ops.formats.xisf", (".xisf",))
TIFF = Format("a TIFF file", "skyloom.ops.formats.tiff", (".tif", ".tiff"))
CAMERA_RAW = Format(
    "a camera raw file",
    "skyloom.ops.formats.camera_raw",
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos"),
        *(".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    ),
)
SESSION = Format("a simulated session", "skyloom.ops.simulation.session_file", (".sky",))
FORMATS = (XISF, TIFF, CAMERA_RAW, SESSION)
SUFFIXES = (*fits.SUFFIXES, *(suffix for form in FORMATS for suffix in form.suffixes))
"""Ends of the names of files a folder is searched for (lower case)."""
ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".xz", ".zst", ".ser")
"""Ends of the names of files that may hold frames and are not read: to be reported, not passed over."""

_SESSION_HEAD = b'{"skyloom": "simulated session"'
_TIFF_HEADS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_RAW_HEADS = (
    b"FUJIFILMCCD-RAW",
    b"IIU\x00",
    b"IIRO",
    b"IIRS",
    b"MMOR",
    b"\x00MRM",
    b"FOVb",
    b"II\x1a\x00\x00\x00HEAPCCDR",
)
_REFUSED = (
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz, which is not read: run `unxz` on it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd, which is not read: run `unzstd` on it first"),
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself: run `git lfs pull`"),
    (b"LUCAM-RECORDER", "a SER video, which is not read: stack it, or save its frames as FITS"),
    (b"\x89PNG", "a PNG picture, no frame: its pixels are stretched or lack a header; use the FITS, TIFF or raw"),
    (b"\xff\xd8\xff", "a JPEG picture, no frame: 8 bits with losses; use the raw file of the camera"),
    (b"\x89HDF", "an HDF5 file, which is not read: save its images as FITS"),
)


def examine(path: str | Path) -> list[FrameFile]:
    """Frames in a file, whatever its name says it is: plan, header and content id of each, from a few short reads.

    Raises
    ------
    UnusableFile
        If there is none, or the file is not what its headers promise; the reason has numbers and remedy.
    """
    name = os.fspath(path)
    if not is_address(name):
        return _examine(name)
    try:
        with one_look(name):
            return _examine(name)
    except FileNotFoundError as failure:
        raise UnusableFile(name, f"cannot be read: {failure.strerror or failure}") from failure


def _examine(name: str) -> list[FrameFile]:
    try:
        with open_file(name) as file:
            head = file.read(HEAD_BYTES)
    except OSError as failure:
        raise UnusableFile(name, f"cannot be read: {failure.strerror or failure}") from failure
    if not head:
        raise UnusableFile(name, "empty file (0 bytes); copy it again")
    for signature, reason in _REFUSED:
        if head.startswith(signature):
            raise UnusableFile(name, reason)
    form = format_of(head, Path(name).suffix.lower())
    reader = fits.examine if form is None else _reader(name, form)
    if not is_address(name):
        return reader(name)
    return examine_object(name, reader, by_range=form is None or form is XISF)


def format_of(head: bytes, suffix: str) -> Format | None:
    """Format of a file by its first bytes, and by the end of its name where they do not tell; None: FITS.

    Most camera raws are TIFF files: the name tells, or what makes and models of cameras leave in the first bytes.
    """
    if head.startswith(b"XISF0100"):
        return XISF
    if head.startswith(_SESSION_HEAD) or suffix in SESSION.suffixes:
        return SESSION
    if head.startswith(_RAW_HEADS) or head[4:12] == b"ftypcrx ":
        return CAMERA_RAW
    if head.startswith(_TIFF_HEADS):
        return CAMERA_RAW if suffix in CAMERA_RAW.suffixes or head[8:10] == b"CR" else TIFF
    if fits.matches(head):
        return None
    # A raw that is cut short or has lost its head is to be refused by the reader of raws.
    return CAMERA_RAW if suffix in CAMERA_RAW.suffixes else None


def _reader(name: str, form: Format) -> Callable[[str | Path], list[FrameFile]]:
    try:
        module = importlib.import_module(form.module)
    except ImportError as missing:
        raise UnusableFile(name, f"{form.name}, which cannot be read here: {missing}") from missing
    examine_it: Callable[[str | Path], list[FrameFile]] = module.examine
    return examine_it
