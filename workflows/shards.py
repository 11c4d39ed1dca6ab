"""Blocks of a stored array, encoded and decoded in the thread that asks.

zarr hands every chunk of a shard to an event loop and from there to a pool of threads: of a tile's six arrays that
costs six times what compressing them does. Here a task packs its shard itself and gives the store one value. What
is written is what zarr would write, and what is laid out otherwise goes through zarr.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Any
from uuid import uuid4

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore

from skyloom.ops.objects import ObjectPath
from skyloom.workflows.places import object_root

EMPTY = 2**64 - 1
"""Offset and length of a chunk that is not stored: all fill value."""
CHECKSUM_BYTES = 4
NEAR_BYTES = 2**18
"""Chunks in an object store that lie no further apart are asked for together."""
READERS = 8
"""Shards in an object store that are read at a time."""


@dataclass(frozen=True)
class Packing:
    """How the shards of an array are packed."""

    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    counts: tuple[int, ...]
    """Chunks of a shard along each axis."""
    indexed: bool
    """An index follows the chunks; without one a shard is one chunk."""
    dtype: np.dtype[Any]
    fill: Any
    codec: Blosc

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a shard."""
        return 16 * prod(self.counts) + CHECKSUM_BYTES if self.indexed else 0


def packing(array: zarr.Array[Any]) -> Packing | None:
    """How an array is packed, or None where only zarr knows."""
    metadata = array.metadata
    if not isinstance(metadata, ArrayV3Metadata) or array.dtype.kind not in "fiub" or array.dtype.byteorder == ">":
        return None
    codecs = json.dumps([c.to_dict() for c in metadata.codecs])
    # As bytes: NaN is not equal to itself, and the text of False is true.
    fill = np.asarray(array.fill_value, array.dtype).tobytes()
    return _packing(codecs, array.shards or array.chunks, array.dtype.str, fill)


@lru_cache(maxsize=256)
def _packing(codecs: str, shard: tuple[int, ...], dtype: str, fill: bytes) -> Packing | None:
    kind, chain = np.dtype(dtype), json.loads(codecs)
    if [c["name"] for c in chain] == ["sharding_indexed"]:
        about = chain[0]["configuration"]
        if about["index_location"] != "end" or [c["name"] for c in about["index_codecs"]] != ["bytes", "crc32c"]:
            return None
        chain, chunk, indexed = about["codecs"], tuple(about["chunk_shape"]), True
    else:
        chunk, indexed = shard, False
    if [c["name"] for c in chain] != ["bytes", "blosc", "crc32c"]:
        return None
    if kind.itemsize > 1 and chain[0]["configuration"]["endian"] != "little":
        return None
    blosc = chain[1]["configuration"]
    codec = Blosc(**{**blosc, "shuffle": ("noshuffle", "shuffle", "bitshuffle").index(blosc["shuffle"])})
    counts = tuple(s // c for s, c in zip(shard, chunk, strict=True))
    return Packing(shard, chunk, counts, indexed, kind, np.frombuffer(fill, kind)[0], codec)


def pack(block: NDArray[Any], how: Packing) -> bytes | None:
    """Bytes of a whole shard, or None where all of it is fill value."""
    index = np.full((*how.counts, 2), EMPTY, dtype="<u8")
    parts: list[bytes] = []
    at = 0
    for place in product(*(range(n) for n in how.counts)):
        chunk = block[tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, how.chunk, strict=True))]
        if _all_fill(chunk, how.fill):
            continue
        data = how.codec.encode(np.ascontiguousarray(chunk))
        index[place] = at, len(data) + CHECKSUM_BYTES
        parts += [data, _checksum(data)]
        at += len(data) + CHECKSUM_BYTES
    if not parts:
        return None
    if not how.indexed:
        return b"".join(parts)
    ends = index.tobytes()
    return b"".join([*parts, ends, _checksum(ends)])


def write_block(target: zarr.Array[Any], region: tuple[slice, ...], values: NDArray[Any]) -> None:
    """Write a part of an array: in one value where it is a whole shard.

    Parameters
    ----------
    target
        Open for writing.
    region
        Begins where a shard begins and ends where it or the array does.
    values
        Of the region's shape.
    """
    packed = packed_block(target, region, values)
    if packed is None:
        target[region] = values
        return
    name, data = packed
    value = target.store_path / name
    if isinstance(target.store, LocalStore):
        # Without zarr's loop between, which costs a small block more than its bytes do.
        _put(target.store.root / target.store_path.path, name, data)
    elif data is None:
        sync(value.delete())
    else:
        sync(value.set(default_buffer_prototype().buffer.from_bytes(data)))


def _put(folder: Path, name: str, data: bytes | None) -> None:
    """Write a file of an array whole, or take it away."""
    path = folder / name
    if data is None:
        path.unlink(missing_ok=True)
        return
    # The ending zarr has, too: what is left of a run that was killed is found by it.
    half = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        try:
            file = half.open("wb")
        except FileNotFoundError:
            # The array itself has to be there: what is written beside a store that went would be lost.
            folder.joinpath("zarr.json").stat()
            half.parent.mkdir(parents=True, exist_ok=True)
            file = half.open("wb")
        with file:
            file.write(data)
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def packed_block(
    target: zarr.Array[Any], region: tuple[slice, ...], values: NDArray[Any]
) -> tuple[str, bytes | None] | None:
    """Key in the array and bytes of a block (see `write_block`); None where it is to be written by zarr.

    No bytes: all of it is fill value, and nothing is to be there.
    """
    how = packing(target)
    if how is None or not _is_shard(region, how.shard, target.shape):
        return None
    block = np.asarray(values, dtype=how.dtype)
    if block.shape != how.shard:
        padded = np.full(how.shard, how.fill, dtype=how.dtype)
        padded[tuple(slice(0, n) for n in block.shape)] = block
        block = padded
    place = tuple(r.start // s for r, s in zip(region, how.shard, strict=True))
    return target.metadata.encode_chunk_key(place), pack(block, how)


def read_window(source: zarr.Array[Any], window: tuple[slice | int, ...]) -> NDArray[Any]:
    """Read a window of an array.

    Parameters
    ----------
    source
        Open for reading.
    window
        For each axis a slice of step 1 or a position, which drops the axis.

    Raises
    ------
    ValueError
        If what is stored is damaged.
    """
    how, store = packing(source), source.store
    distant = object_root(store)
    if how is None or not (isinstance(store, LocalStore) or distant) or not _all_plain(window, source.ndim):
        return np.asarray(source[window])
    bounds = _all_bounds(source, window)
    out = np.full([max(stop - start, 0) for start, stop in bounds], how.fill, dtype=how.dtype)
    names = (
        (place, (source.store_path / source.metadata.encode_chunk_key(place)).path)
        for place in shards_of(source, window)
    )
    if isinstance(store, LocalStore):
        for place, name in names:
            _read_shard(store.root / name, place, bounds, out, how)
    elif distant is not None:
        root = distant
        _together([partial(_read_object, root / name, place, bounds, out, how) for place, name in names])
    return out[tuple(0 if not isinstance(w, slice) else slice(None) for w in window)]


def shards_of(source: zarr.Array[Any], window: tuple[slice | int, ...]) -> Iterator[tuple[int, ...]]:
    """Places, in the grid of shards, of those that a window touches."""
    shard = source.shards or source.chunks
    return product(
        *(
            range(a // s, -(-b // s)) if b > a else range(0)
            for (a, b), s in zip(_all_bounds(source, window), shard, strict=True)
        )
    )


def _read_shard(
    file: Path, place: tuple[int, ...], bounds: list[tuple[int, int]], out: NDArray[Any], how: Packing
) -> None:
    """Decode what a shard has of a window."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(descriptor).st_size
        index = np.array([0, size]).reshape((*how.counts, 2)) if not how.indexed else _index(descriptor, size, how)
        _read_chunks(descriptor, index, place, bounds, out, how)
    finally:
        os.close(descriptor)


def _read_object(
    shard: ObjectPath, place: tuple[int, ...], bounds: list[tuple[int, int]], out: NDArray[Any], how: Packing
) -> None:
    """Decode what a shard in an object store has of a window; of a part of it only those chunks travel."""
    local, offset = _in_shard(place, bounds, how)
    places = [range(a // c, -(-b // c)) for (a, b), c in zip(local, how.chunk, strict=True)]
    whole = not how.indexed or prod(map(len, places)) == prod(how.counts)
    try:
        data = np.frombuffer(shard.read_bytes() if whole else shard.read_end(how.index_bytes), dtype=np.uint8)
        if not how.indexed:
            index = np.array([0, len(data)]).reshape((*how.counts, 2))
        else:
            ends = _checked(data[max(len(data) - how.index_bytes, 0) :], how.index_bytes)
            index = np.frombuffer(ends, dtype="<i8").reshape((*how.counts, 2))
        wanted = {chunk: index[chunk] for chunk in product(*places) if index[chunk][1] != -1}
        if whole:
            _decode(data, 0, wanted, local, offset, out, how)
        elif wanted:
            starts = [int(at) for at, _ in wanted.values()]
            ends_at = [int(at + size) for at, size in wanted.values()]
            if min(starts) < 0 or any(b <= a for a, b in zip(starts, ends_at, strict=True)):
                raise ValueError("an index that makes no sense")
            parts = shard.read_ranges(starts, ends_at, near=NEAR_BYTES)
            for (chunk, where), part in zip(wanted.items(), parts, strict=True):
                piece = np.frombuffer(part, dtype=np.uint8)
                _decode(piece, int(where[0]), {chunk: where}, local, offset, out, how)
    except FileNotFoundError:
        return


def _together(reads: list[Callable[[], None]]) -> None:
    """Read several shards: what takes long is waiting for them."""
    if len(reads) < 2:
        for read in reads:
            read()
        return
    with ThreadPoolExecutor(min(READERS, len(reads))) as pool:
        for future in [pool.submit(read) for read in reads]:
            future.result()


def _bytes(descriptor: int, start: int, stop: int) -> NDArray[np.uint8]:
    return np.frombuffer(os.pread(descriptor, stop - start, start), dtype=np.uint8)


def _index(descriptor: int, size: int, how: Packing) -> NDArray[np.int64]:
    """(..., 2) offset and length of the chunks of a shard; -1 where there is none."""
    ends = _checked(_bytes(descriptor, max(size - how.index_bytes, 0), size), how.index_bytes)
    return np.frombuffer(ends, dtype="<i8").reshape((*how.counts, 2))


def _read_chunks(
    descriptor: int, index: NDArray[np.int64], place: tuple[int, ...], bounds: list[tuple[int, int]],
    out: NDArray[Any], how: Packing,
) -> None:  # fmt: skip
    local, offset = _in_shard(place, bounds, how)
    wanted = {
        chunk: index[chunk]
        for chunk in product(*(range(a // c, -(-b // c)) for (a, b), c in zip(local, how.chunk, strict=True)))
        if index[chunk][1] != -1
    }
    if not wanted:
        return
    first = min(int(at) for at, _ in wanted.values())
    last = max(int(at + size) for at, size in wanted.values())
    _decode(
        _bytes(descriptor, first, last),
        first,
        wanted,
        local,
        offset,
        out,
        how,
    )


def _in_shard(
    place: tuple[int, ...], bounds: list[tuple[int, int]], how: Packing
) -> tuple[list[tuple[int, int]], list[int]]:
    """Bounds of a window within a shard, and what takes places there to those in the window."""
    origin = [p * s for p, s in zip(place, how.shard, strict=True)]
    local = [(max(a - o, 0), min(b - o, s)) for (a, b), o, s in zip(bounds, origin, how.shard, strict=True)]
    return local, [o - a for (a, _), o in zip(bounds, origin, strict=True)]


def _decode(
    data: NDArray[np.uint8], first: int, wanted: Mapping[tuple[int, ...], Any], local: list[tuple[int, int]],
    offset: list[int], out: NDArray[Any], how: Packing,
) -> None:  # fmt: skip
    """Put the chunks of a shard where they belong; `offset` takes places in the shard to those in `out`."""
    for chunk, (at, size) in wanted.items():
        whole = _checked(data[int(at) - first : int(at + size) - first], int(size))
        values = np.frombuffer(how.codec.decode(whole), dtype=how.dtype)
        if values.size != prod(how.chunk):
            raise ValueError(f"a chunk holds {values.size} numbers, not {prod(how.chunk)}")
        starts = [i * c for i, c in zip(chunk, how.chunk, strict=True)]
        part = [(max(a - s, 0), min(b - s, c)) for (a, b), s, c in zip(local, starts, how.chunk, strict=True)]
        to = tuple(slice(s + a + o, s + b + o) for (a, b), s, o in zip(part, starts, offset, strict=True))
        out[to] = values.reshape(how.chunk)[tuple(slice(a, b) for a, b in part)]


def _checked(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bytes without their checksum, which is looked at."""
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes of {size}")
    if _checksum(data[:-CHECKSUM_BYTES]) != data[-CHECKSUM_BYTES:].tobytes():
        raise ValueError("stored and computed checksum do not match")
    return data[:-CHECKSUM_BYTES]


def _checksum(data: Any) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(CHECKSUM_BYTES, "little")


def _all_fill(chunk: NDArray[Any], fill: Any) -> bool:
    if fill != fill:
        # What has data mostly has it in the middle.
        middle = chunk[tuple(n // 2 for n in chunk.shape)]
        return bool(middle != middle) and bool(np.isnan(chunk).all())
    return bool(chunk.flat[0] == fill) and bool((chunk == fill).all())


def _is_shard(region: tuple[slice, ...], shard: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return all(
        r.step in (None, 1) and r.start % s == 0 and r.stop == min(r.start + s, n)
        for r, s, n in zip(region, shard, shape, strict=True)
    )


def _all_plain(window: tuple[Any, ...], axes: int) -> bool:
    """Whether a window is slices and positions, one for each axis."""
    return len(window) == axes and all(
        w.step in (None, 1) if isinstance(w, slice) else isinstance(w, int | np.integer) for w in window
    )


def _all_bounds(source: zarr.Array[Any], window: tuple[slice | int, ...]) -> list[tuple[int, int]]:
    return [_bounds(w, n) for w, n in zip(window, source.shape, strict=True)]


def _bounds(part: slice | int, length: int) -> tuple[int, int]:
    if isinstance(part, slice):
        start, stop, _ = part.indices(length)
        return start, stop
    at = int(part) + (length if part < 0 else 0)
    if not 0 <= at < length:
        raise IndexError(f"{part} is beyond {length}")
    return at, at + 1
