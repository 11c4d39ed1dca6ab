"""Pixels that lie in a file uncompressed, read by window; and what every format asks of a file before that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.formats.byte_file import ObjectFile, facts_of, open_file, pread
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.objects import is_address

IO_BUFFERS = 1024
"""Buffers one vectored read may fill (IOV_MAX of Linux and macOS)."""
IO_BYTES = 2**26
"""Bytes one vectored read may span."""
SAMPLES = 16
SAMPLE_BYTES = 16 * 1024


def file_state(path: str) -> tuple[int, int, bytes]:
    """Size (bytes), time of the last change (ns) and first 64 bytes of a file.

    Raises
    ------
    UnusableFile
        If it cannot be read, or is empty.
    """
    try:
        with open_file(path) as file:
            facts = facts_of(file)
            head = file.read(64)
    except OSError as failure:
        raise UnusableFile(path, f"cannot be read: {failure.strerror or failure}") from failure
    if not facts.st_size:
        raise UnusableFile(path, "empty file (0 bytes); copy it again")
    return facts.st_size, facts.st_mtime_ns, head


def check_unchanged(path: str, size: int, mtime_ns: int) -> None:
    """Refuse a file that is no longer the one that was ingested."""
    try:
        now = Path(path).stat()
    except OSError as failure:
        raise UnusableFile(path, f"cannot be read: {failure.strerror or failure}") from failure
    if now.st_size != size:
        raise UnusableFile(
            path, f"changed since it was ingested ({size} bytes then, {now.st_size} now); run again"
        )
    if now.st_mtime_ns != mtime_ns:
        raise UnusableFile(path, "changed since it was ingested (it was written again); run again")


def content_id(path: str, size: int, header: bytes, first: int, count: int) -> str:
    """Content id, 16 hex digits: of the size, the header and samples of `count` bytes from `first`."""
    digest = hashlib.blake2b(f"{size}:".encode(), digest_size=8)
    digest.update(header)
    places = [(first + start, min(SAMPLE_BYTES, count - start)) for start in sample_offsets(count)]
    with open_file(path) as file:
        for part in file.parts(places) if isinstance(file, ObjectFile) else _parts(file.fileno(), places):
            digest.update(part)
    return digest.hexdigest()


def _parts(descriptor: int, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    for offset, count in places:
        yield os.pread(descriptor, count, offset)


def sample_offsets(count: int) -> list[int]:
    """Offsets of up to 16 evenly spread blocks of 16 KiB in `count` bytes."""
    if count <= SAMPLES * SAMPLE_BYTES:
        return list(range(0, count, SAMPLE_BYTES))
    return [i * (count - SAMPLE_BYTES) // (SAMPLES - 1) for i in range(SAMPLES)]


def plane_digest(header: bytes, band: str) -> str:
    """Digest of headers alone, 16 hex digits, different for each plane of a colour image."""
    return hashlib.blake2b(header, digest_size=8, person=band.encode()).hexdigest()


def read_bytes(path: str, offset: int, count: int) -> bytes:
    """Exactly `count` bytes from `offset`.

    Raises
    ------
    UnusableFile
        If the file ends before.
    """
    if is_address(path):
        with open_file(path) as file:
            found = pread(file, count, offset)
        if len(found) < count:
            raise UnusableFile(path, f"truncated while it was read (at byte {offset + count}); run again")
        return found
    # Nothing is allocated for what the file does not have.
    with Path(path).open("rb", buffering=0) as file:
        if offset + count > os.fstat(file.fileno()).st_size:
            raise UnusableFile(path, f"truncated while it was read (at byte {offset + count}); run again")
        data = bytearray(count)
        read_into(path, file.fileno(), memoryview(data), offset)
    return bytes(data)


def read_window(
    path: str, dtype: np.dtype[Any], *, offset: int, pitch: int, rows: tuple[int, int], columns: tuple[int, int]
) -> NDArray[Any]:
    """Stored numbers of a window.

    Parameters
    ----------
    path
        File.
    dtype
        Type of the numbers, with their byte order.
    offset
        First byte of row 0.
    pitch
        Numbers from one row to the next.
    rows, columns
        First and last + 1.

    Returns
    -------
    numpy.ndarray
        (rows, columns) of `dtype`.

    Notes
    -----
    Vectored reads, not a memory map: a map of a file that shrinks, or of a disk that fails, ends the process with
    a bus error.
    """
    item = dtype.itemsize
    raw = np.empty((max(rows[1] - rows[0], 0), max(columns[1] - columns[0], 0)), dtype)
    if not raw.size:
        return raw
    count, row, stride = raw.shape[0], raw.shape[1] * item, pitch * item
    first = offset + rows[0] * stride + columns[0] * item
    places = raw.reshape(-1).view(np.uint8).data
    with Path(path).open("rb", buffering=0) as file:
        if row == stride:
            read_into(path, file.fileno(), places, first)
            return raw
        # What lies between the window's parts of two rows goes into a buffer that nobody looks at.
        between = memoryview(bytearray(stride - row))
        step = max(1, min(IO_BUFFERS // 2, IO_BYTES // stride))
        for y in range(0, count, step):
            end = min(y + step, count)
            buffers = [part for k in range(y, end) for part in (places[k * row : (k + 1) * row], between)]
            expected = (end - y) * stride - len(between)
            if os.preadv(file.fileno(), buffers[:-1], first + y * stride) != expected:
                # The end of the file, or a network file system that answers in parts.
                for k in range(y, end):
                    read_into(path, file.fileno(), places[k * row : (k + 1) * row], first + k * stride)
    return raw


def read_channel(
    path: str,
    dtype: np.dtype[Any],
    *,
    offset: int,
    shape: tuple[int, int],
    channel: int,
    channels: int,
    interleaved: bool,
    window: tuple[slice, slice],
) -> NDArray[Any]:
    """Stored numbers of a window of one channel of a colour image.

    Parameters
    ----------
    path
        File.
    dtype
        Type of the numbers, with their byte order.
    offset
        First byte of the image.
    shape
        Rows and columns of the image.
    channel, channels
        Which one, of how many.
    interleaved
        True: all channels of a pixel lie together; False: one channel after the other.
    window
        Rows and columns.

    Returns
    -------
    numpy.ndarray
        (rows, columns) of `dtype`.
    """
    (top, bottom, _), (left, right, _) = (part.indices(n) for part, n in zip(window, shape, strict=True))
    together = channels if interleaved else 1
    plane = 0 if interleaved else channel * shape[0] * shape[1] * dtype.itemsize
    raw = read_window(
        path,
        dtype,
        offset=offset + plane,
        pitch=shape[1] * together,
        rows=(top, bottom),
        columns=(left * together, max(right, left) * together),
    )
    return raw[:, channel::together] if interleaved else raw


def read_into(path: str, descriptor: int, place: memoryview, offset: int) -> None:
    """Fill `place` with the bytes from `offset` on.

    Raises
    ------
    UnusableFile
        If the file ends before.
    """
    done = 0
    while done < len(place):
        part = os.preadv(descriptor, [place[done : done + 2**30]], offset + done)
        if part == 0:
            raise UnusableFile(path, f"truncated while it was read (at byte {offset + done}); run again")
        done += part
