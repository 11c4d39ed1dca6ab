"""Bytes of a file, read forward and decompressed where the whole file is compressed."""

from __future__ import annotations

import bz2
import importlib
import zlib
from collections.abc import Iterator
from typing import Any

from skyloom.ops.formats.byte_file import facts_of, open_file, pread
from skyloom.ops.formats.frame_file import UnusableFile

CHUNK = 2**16
"""Bytes read from a compressed file at a time."""
PIECE = 2**22
"""Bytes one step of decompression makes at most, where it could make very many."""
CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x1f\x9d": "compress"}
"""Compressions of a whole file by its first bytes."""


def codec_of(head: bytes) -> str:
    """Compression of a file that begins so; "" for none that is known."""
    return next((codec for mark, codec in CODECS.items() if head.startswith(mark)), "")


class Stream:
    """Reads forward in a file, decompressing where it must."""

    def __init__(self, path: str, codec: str) -> None:
        self._path = path
        self._codec = codec
        self._file = open_file(path)
        self._chunks = self._inflate() if codec else iter(())
        self._buffer = bytearray()
        self._start = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer at the end. Compressed: offsets must not fall."""
        if not self._codec:
            return pread(self._file, count, offset)
        drop = offset - self._start
        if drop < 0:
            raise ValueError("a compressed stream is read forward")
        while drop > len(self._buffer):
            drop -= len(self._buffer)
            self._start += len(self._buffer)
            self._buffer.clear()
            more = next(self._chunks, None)
            if more is None:
                return b""
            self._buffer += more
        del self._buffer[:drop]
        self._start = offset
        while len(self._buffer) < count:
            more = next(self._chunks, None)
            if more is None:
                break
            self._buffer += more
        with memoryview(self._buffer) as whole:
            return bytes(whole[:count])

    def length(self) -> int:
        """Bytes of the whole stream; what is left of it is decompressed."""
        if not self._codec:
            return int(facts_of(self._file).st_size)
        end = self._start + len(self._buffer)
        self._buffer.clear()
        end += sum(len(c) for c in self._chunks)
        self._start = end
        return end

    def _inflate(self) -> Iterator[bytes]:
        try:
            yield from self._expand() if self._codec == "compress" else self._members()
        except (zlib.error, OSError, EOFError, ValueError) as failure:
            raise UnusableFile(self._path, f"corrupt {self._codec} stream: {failure}; copy it again") from failure

    def _members(self) -> Iterator[bytes]:
        """What gzip or bzip2 packed, in one member or more."""
        new = (lambda: zlib.decompressobj(31)) if self._codec == "gzip" else bz2.BZ2Decompressor
        member: Any = new()
        rest = b""
        while data := rest or self._file.read(CHUNK):
            rest = b""
            if self._codec == "gzip":
                yield member.decompress(data)
            else:
                # 64 KiB of bzip2 can hold a gigabyte of zeros; deflate packs a thousandfold at most.
                yield member.decompress(data, PIECE)
                while not member.eof and not member.needs_input:
                    yield member.decompress(b"", PIECE)
            if member.eof:
                # Further members follow at once; zeros or other padding after the last one are no data.
                rest, member = member.unused_data, new()
                if len(rest) < 3:
                    rest += self._file.read(CHUNK)
                if not rest.startswith((b"\x1f\x8b", b"BZh")):
                    return
        raise UnusableFile(self._path, f"truncated {self._codec} stream (no end mark); copy it again")

    def _expand(self) -> Iterator[bytes]:
        """What `compress` packed (.Z): the format has neither an end mark nor a check sum."""
        try:
            # Without types of its own.
            packed_file = importlib.import_module("uncompresspy").LZWFile
        except ImportError:
            remedy = "install the package uncompresspy, or run `gunzip` on it first"
            raise UnusableFile(self._path, f"compressed with `compress` (.Z), not read here: {remedy}") from None
        head = self._file.read(3)
        self._file.seek(0)
        if len(head) < 3 or not 9 <= head[2] & 0x1F <= 16 or head[2] & 0x60:
            raise ValueError("its third byte makes no sense")
        with packed_file(self._file, warn_truncation=False, save_checkpoints=False) as packed:
            while chunk := packed.read(CHUNK):
                yield chunk
