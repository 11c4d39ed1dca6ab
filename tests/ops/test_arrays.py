"""Arrays of results as sources."""

from __future__ import annotations

import json

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from skyloom.ops.arrays import LOCATION, array_spec, read_number
from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, open_source

PIXELS = np.random.default_rng(1).normal(size=(3, 20, 16)).astype(np.float32)


def lazy(computed: list[tuple[int, ...]]) -> xr.Dataset:
    def block(block_info: dict[int, dict[str, list[tuple[int, int]]]]) -> np.ndarray:
        where = block_info[0]["array-location"]
        computed.append(tuple(start for start, _ in where))
        return PIXELS[tuple(slice(*w) for w in where)].copy()

    image = da.map_blocks(
        lambda template, block_info=None: block(block_info),
        da.zeros(PIXELS.shape, chunks=(1, 8, 16), dtype=np.float32),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    return xr.Dataset({"image": (("master", "y", "x"), image), "k": ("frame", da.arange(4, chunks=1) * 0.5)})


def test_a_window_of_a_lazy_result_computes_only_its_blocks() -> None:
    computed: list[tuple[int, ...]] = []
    source = open_source(array_spec(lazy(computed), "image", master=2))
    assert computed == []
    assert isinstance(source, FrameSource)
    assert source.shape == (20, 16)
    assert source.windowed
    pixels = source.read(slice(9, 12), slice(3, 7))
    np.testing.assert_array_equal(pixels, PIXELS[2, 9:12, 3:7])
    assert set(computed) == {(2, 8, 0)}
    pixels[:] = 0  # a fresh array: the source is unharmed
    np.testing.assert_array_equal(source.read(slice(9, 12), slice(3, 7)), PIXELS[2, 9:12, 3:7])


def test_numbers_and_arrays_in_memory() -> None:
    dataset = lazy([])
    assert read_number(array_spec(dataset, "k", frame=3)) == 1.5
    source = open_source(array_spec(dataset.compute(), "image", master=1))
    np.testing.assert_array_equal(source.read(slice(0, 20), slice(0, 16)), PIXELS[1])


def test_a_stored_result_is_named_by_its_place() -> None:
    dataset = lazy([])
    dataset.encoding[LOCATION] = {"kind": "stored", "module": "m", "root": "r", "group": "g"}
    fields = json.loads(array_spec(dataset, "image", master=1))
    assert fields == {
        **dataset.encoding[LOCATION], "variable": "image", "index": [1, -1, -1], "shape": [20, 16],
    }  # fmt: skip


def test_what_is_no_image_is_refused() -> None:
    dataset = lazy([])
    with pytest.raises(DataError, match="has no 'noise'; there is: image, k"):
        array_spec(dataset, "noise", master=0)
    with pytest.raises(DataError, match="'image' is over master, y, x"):
        array_spec(dataset, "image")


def test_a_lazy_array_of_another_process_says_what_to_do() -> None:
    spec = json.dumps({"kind": "lazy", "module": "skyloom.ops.arrays", "name": "elsewhere"})
    with pytest.raises(DataError, match="lives in another process; run the nodes before this one"):
        open_source(spec)
