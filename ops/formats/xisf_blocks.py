"""Data blocks of XISF files: where they are, and how they are compressed, shuffled and checked."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.formats.frame_file import UnusableFile

_EXPANSION = {"zlib": 1040, "lz4": 256, "zstd": 32768}
"""Bytes one compressed byte can stand for at most, rounded up: a block that promises more is corrupt."""
_DIGESTS = {
    "sha1": "sha1",
    "sha256": "sha256",
    "sha512": "sha512",
    "sha3256": "sha3_256",
    "sha3512": "sha3_512",
}
LZ4_MAX = 2**31 - 1
"""Bytes an LZ4 or zlib part may hold: larger blocks come in parts."""


@dataclass(frozen=True)
class Block:
    """A block of data of an XISF file."""

    offset: int
    """First byte in the file; −1: the data are text in the header."""
    stored: int
    """Bytes in the file (of text: when decoded; −1 = as many as there are)."""
    size: int
    """Bytes when decompressed."""
    encoding: str = ""
    """Of text: "base64" or "hex"."""
    codec: str = ""
    """"zlib", "lz4", "zstd", or "" for none."""
    item: int = 1
    """Bytes of the items that were shuffled; 1: not shuffled."""
    parts: tuple[tuple[int, int], ...] = ()
    """Compressed and decompressed bytes of the parts that were compressed each on its own; empty: one part."""
    checksum: str = ""
    """Digest of the stored bytes as "algorithm:hex"."""

    @property
    def plain(self) -> bool:
        """True: the bytes of the file are the data, and any of them can be read alone."""
        return self.offset >= 0 and not self.codec


def block_of(path: str, attributes: Mapping[str, str], data: Mapping[str, str] | None, size: int) -> Block:
    """Block of an element that should hold `size` bytes of data.

    Parameters
    ----------
    path
        File, for the message.
    attributes
        Of the element.
    data
        Of its Data element, when the block is embedded.

    Raises
    ------
    UnusableFile
        If the attributes make no sense, or ask for what is not read (data in other files, unknown codecs).
    """
    location = attributes.get("location", "").strip()
    kind, _, place = location.partition(":")
    offset, stored, encoding = -1, -1, ""
    if kind == "attachment":
        numbers = _integers(place, 2)
        if numbers is None:
            raise UnusableFile(path, f"broken header: location = {location[:60]!r}; write the file again")
        offset, stored = numbers
    elif kind == "inline":
        encoding = place
    elif kind == "embedded":
        if data is None:
            raise UnusableFile(path, "broken header: an embedded image without Data; write the file again")
        attributes = {**attributes, **data}
        encoding = data.get("encoding", "")
    elif kind.startswith(("url(", "path(")):
        raise UnusableFile(
            path, "a distributed XISF unit, its pixels are in another file: save it as one .xisf file"
        )
    else:
        raise UnusableFile(path, f"broken header: location = {location[:60]!r}; write the file again")
    if offset < 0 and encoding not in ("base64", "hex"):
        raise UnusableFile(path, f"broken header: encoding = {encoding[:20]!r}; XISF knows base64 and hex")
    codec, item = _compression(path, attributes.get("compression", ""), size)
    parts = _parts(path, attributes.get("subblocks", ""), stored, size) if codec else ()
    block = Block(offset, stored, size, encoding, codec, item, parts, attributes.get("checksum", "").strip())
    if offset >= 0:
        _check_plausible(path, block)
    return block


def _integers(text: str, count: int) -> tuple[int, ...] | None:
    parts = text.split(":")
    if len(parts) != count or not all(p.strip().isascii() and p.strip().isdigit() and len(p) < 20 for p in parts):
        return None
    return tuple(int(p) for p in parts)


def _compression(path: str, text: str, size: int) -> tuple[str, int]:
    """Codec and bytes of a shuffled item."""
    text = text.strip()
    if not text:
        return "", 1
    name, _, rest = text.partition(":")
    codec, _, shuffled = name.partition("+")
    codec = {"lz4hc": "lz4", "lz4-hc": "lz4"}.get(codec, codec)
    if codec not in _EXPANSION or shuffled not in ("", "sh"):
        raise UnusableFile(path, f"compressed with {name[:30]!r}: zlib, lz4, lz4hc and zstd (+sh) are read")
    numbers = _integers(rest, 2) if shuffled else _integers(rest, 1) or _integers(rest, 2)
    if numbers is None or (shuffled and not 0 < numbers[1] <= 64):
        raise UnusableFile(path, f"broken header: compression = {text[:60]!r}; write the file again")
    if numbers[0] != size:
        raise UnusableFile(
            path,
            f"broken header: {numbers[0]} bytes when decompressed, the image has {size}; write the file again",
        )
    return codec, numbers[1] if shuffled else 1


def _parts(path: str, text: str, stored: int, size: int) -> tuple[tuple[int, int], ...]:
    if not text.strip():
        return ()
    parts = []
    for part in text.strip().strip(":").split(":"):
        pair = _integers(part.replace(",", ":"), 2)
        if pair is None or not pair[0] or not pair[1]:
            raise UnusableFile(path, f"broken header: subblocks = {text[:60]!r}; write the file again")
        parts.append((pair[0], pair[1]))
    if (stored >= 0 and sum(c for c, _ in parts) != stored) or sum(u for _, u in parts) != size:
        raise UnusableFile(
            path,
            f"broken header: subblocks of {sum(c for c, _ in parts)} bytes ({sum(u for _, u in parts)} when "
            f"decompressed), the block has {stored} ({size}); write the file again",
        )
    return tuple(parts)


def _check_plausible(path: str, block: Block) -> None:
    limit = block.stored * _EXPANSION[block.codec] + 64 if block.codec else block.stored
    if block.size > limit or (not block.codec and block.stored != block.size):
        raise UnusableFile(
            path, f"broken header: {block.stored} bytes of data for an image of {block.size}; write the file again"
        )


def block_bytes(path: str, block: Block, text: str) -> bytes:
    """Stored bytes of a block that is text in the header."""
    compact = "".join(text.split())
    try:
        if block.encoding == "hex":
            return bytes.fromhex(compact)
        return base64.b64decode(compact, validate=True)
    except (ValueError, binascii.Error) as failure:
        raise UnusableFile(path, f"corrupt {block.encoding} data: {failure}; copy it again") from failure


def decompressed(path: str, block: Block, stored: bytes) -> NDArray[np.uint8]:
    """Data of a block, its checksum verified.

    Raises
    ------
    UnusableFile
        If checksum or length are wrong, or a decoder finds the bytes corrupt.
    """
    _verify(path, block, stored)
    if not block.codec:
        if len(stored) != block.size:
            raise UnusableFile(path, f"corrupt data: {len(stored)} bytes, not {block.size}; copy it again")
        return np.frombuffer(stored, np.uint8)
    parts = block.parts or ((len(stored), block.size),)
    if sum(c for c, _ in parts) != len(stored):
        raise UnusableFile(path, f"corrupt data: {len(stored)} compressed bytes, not those of the parts")
    # An oversized promise costs address space only: pages come into being as they are written.
    data = np.empty(block.size, np.uint8)
    view, first, done = memoryview(stored), 0, 0
    for compressed, size in parts:
        place = data[done : done + size]
        part = view[first : first + compressed]
        if compressed == size:
            # What could not be compressed is stored as it is.
            place[:] = np.frombuffer(part, np.uint8)
        else:
            try:
                _decompress(block.codec, part, place)
            # Decoders raise what they like (zlib.error, RuntimeError, ValueError, MemoryError).
            except Exception as failure:
                raise UnusableFile(
                    path, f"corrupt {block.codec} data ({compressed} bytes for {size}): {failure}; copy it again"
                ) from failure
        first, done = first + compressed, done + size
    return _unshuffled(data, block.item)


def _decompress(codec: str, stored: memoryview, place: NDArray[np.uint8]) -> None:
    if codec == "zlib":
        decoder = zlib.decompressobj()
        plain = decoder.decompress(stored, place.size + 1)
        if len(plain) != place.size or not decoder.eof:
            raise ValueError(f"it holds {len(plain)} bytes{'' if decoder.eof else ' and is cut off'}")
        place[:] = np.frombuffer(plain, np.uint8)
    elif codec == "lz4":
        from numcodecs import lz4

        if place.size > LZ4_MAX:
            raise ValueError("more than an LZ4 block can hold")
        # numcodecs wants the length in front, where XISF has it in the header.
        lz4.decompress(place.size.to_bytes(4, "little") + stored, place)
    else:
        from numcodecs import zstd

        if _zstd_size(bytes(stored[:18])) in (place.size, None):
            zstd.decompress(stored, place)
        else:
            # numcodecs says nothing when the destination is larger than what comes out.
            plain = zstd.decompress(stored)
            if len(plain) != place.size:
                raise ValueError(f"it holds {len(plain)} bytes")
            place[:] = np.frombuffer(plain, np.uint8)


def _zstd_size(frame: bytes) -> int | None:
    """Decompressed bytes of the first zstd frame as its header has them; None: not said (RFC 8878, 3.1.1.1)."""
    if len(frame) < 18 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = frame[4]
    single = bool(flags & 0x20)
    width = (int(single), 2, 4, 8)[flags >> 6]
    first = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if not width:
        return None
    size = int.from_bytes(frame[first : first + width], "little")
    return size + 256 if width == 2 else size


def _unshuffled(data: NDArray[np.uint8], item: int) -> NDArray[np.uint8]:
    """Bytes in their order again: what is shuffled has the first bytes of all items, then the second ones, …."""
    count = data.size // item
    if item == 1 or count == 0:
        return data
    plain = np.empty_like(data)
    items = plain[: count * item].reshape(count, item)
    for byte in range(item):
        items[:, byte] = data[byte * count : (byte + 1) * count]
    plain[count * item :] = data[count * item :]
    return plain


def _verify(path: str, block: Block, stored: bytes) -> None:
    name, _, expected = block.checksum.partition(":")
    algorithm = _DIGESTS.get(name.lower().replace("-", "").replace("_", ""))
    if algorithm is None:
        return
    found = hashlib.new(algorithm, stored, usedforsecurity=False).hexdigest()
    if found != expected.strip().lower():
        raise UnusableFile(
            path, f"corrupt data: {name} {found[:16]}…, the header says {expected[:16]}…; copy it again"
        )


def bytes_of(shape: tuple[int, ...], item: int) -> int:
    """Bytes of an array."""
    return math.prod(shape) * item
