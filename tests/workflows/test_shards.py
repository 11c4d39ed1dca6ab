"""Shards written and read here against zarr's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from skyloom.workflows.shards import packing, read_window, write_block
from skyloom.workflows.stored_layout import COMPRESSORS

SHAPE, SHARD, CHUNK = (2, 100, 150), (1, 64, 64), (1, 16, 16)


def stored(store: object, dtype: str, *, sharded: bool = True) -> zarr.Array[Any]:
    return zarr.create_array(
        store, shape=SHAPE, dtype=dtype, chunks=CHUNK if sharded else SHARD, shards=SHARD if sharded else None,
        compressors=COMPRESSORS, fill_value=np.nan if np.dtype(dtype).kind == "f" else 0, zarr_format=3,
        overwrite=True,
    )  # fmt: skip


def content(dtype: str) -> NDArray[np.generic]:
    """Noise with places of fill value: a chunk, a shard, the frame of a chunk."""
    rng = np.random.default_rng(5)
    fill = np.nan if np.dtype(dtype).kind == "f" else 0
    values = rng.normal(100, 20, SHAPE).astype(dtype)
    values[0, 16:32, 32:48] = fill
    values[1, 64:, :64] = fill
    values[0, 40, :] = fill
    return values


def blocks() -> list[tuple[slice, ...]]:
    return [
        (slice(b, b + 1), slice(y, min(y + 64, 100)), slice(x, min(x + 64, 150)))
        for b in range(2)
        for y in (0, 64)
        for x in (0, 64, 128)
    ]


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "uint8", "bool"])
def test_zarr_reads_what_is_written(tmp_path: Path, dtype: str, sharded: bool) -> None:
    array, values = stored(tmp_path / "a", dtype, sharded=sharded), content(dtype)
    assert packing(array) is not None
    for block in blocks():
        write_block(array, block, values[block])
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], values)


def test_other_stores_are_written_too() -> None:
    array, values = stored(MemoryStore(), "float32"), content("float32")
    for block in blocks():
        write_block(array, block, values[block])
    np.testing.assert_array_equal(array[:], values)
    np.testing.assert_array_equal(read_window(array, (1, slice(3, 90), slice(60, 140))), values[1, 3:90, 60:140])


def test_what_is_fill_value_is_no_file(tmp_path: Path) -> None:
    array = stored(tmp_path / "a", "float32")
    block = blocks()[0]
    write_block(array, block, np.ones((1, 64, 64), np.float32))
    assert len(list((tmp_path / "a" / "c").rglob("*"))) == 3
    write_block(array, block, np.full((1, 64, 64), np.nan, np.float32))
    assert not [p for p in (tmp_path / "a" / "c").rglob("*") if p.is_file()]


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_of_what_zarr_wrote(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, sharded: bool, data: st.DataObject
) -> None:
    where = tmp_path_factory.getbasetemp() / f"read-{dtype}-{sharded}"
    values = content(dtype)
    if not where.exists():
        stored(where, dtype, sharded=sharded)[:] = values
    array = zarr.open_array(where, mode="r")

    def part(n: int) -> slice:
        start = data.draw(st.integers(0, n))
        return slice(start, data.draw(st.integers(start, n + 5)))

    window = (data.draw(st.one_of(st.integers(0, 1), st.just(slice(0, 2)))), part(SHAPE[1]), part(SHAPE[2]))
    got = read_window(array, window)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, values[window])


@pytest.mark.parametrize("at", [30, -3, -200])
def test_damage_is_told(tmp_path: Path, at: int) -> None:
    array, values = stored(tmp_path / "a", "float32"), content("float32")
    block = blocks()[0]
    write_block(array, block, values[block])
    file = tmp_path / "a" / "c" / "0" / "0" / "0"
    damaged = bytearray(file.read_bytes())
    damaged[at] ^= 4
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="checksum"):
        read_window(zarr.open_array(tmp_path / "a", mode="r"), block)


def test_a_torn_file_is_told(tmp_path: Path) -> None:
    array, values = stored(tmp_path / "a", "float32"), content("float32")
    block = blocks()[0]
    write_block(array, block, values[block])
    file = tmp_path / "a" / "c" / "0" / "0" / "0"
    for size in (0, 3, 1000):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"checksum|bytes of"):
            read_window(zarr.open_array(tmp_path / "a", mode="r"), block)


def test_parts_of_a_shard_go_through_zarr(tmp_path: Path) -> None:
    array, values = stored(tmp_path / "a", "float32"), content("float32")
    for block in blocks():
        write_block(array, block, values[block])
    write_block(array, (slice(0, 1), slice(3, 20), slice(7, 80)), np.zeros((1, 17, 73), np.float32))
    values[0, 3:20, 7:80] = 0
    np.testing.assert_array_equal(read_window(array, (0, slice(0, 100), slice(0, 150))), values[0])


def test_texts_go_through_zarr(tmp_path: Path) -> None:
    texts = np.array(["a frame", "", "ß"], dtype=object)
    array = zarr.create_array(tmp_path / "t", shape=(3,), dtype=str, chunks=(1,), compressors=None, fill_value="")
    write_block(array, (slice(0, 3),), texts)
    assert read_window(array, (slice(0, 2),)).tolist() == ["a frame", ""]
