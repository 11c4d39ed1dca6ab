"""What goes into the store comes out of it, in whole chunks, and damage is noticed."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from skyloom.ops.arrays import array_spec
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.frames import open_source
from skyloom.workflows.layout import Layout
from skyloom.workflows.store import Store

RNG = np.random.default_rng(5)
IMAGE = RNG.normal(size=(1, 700, 1100)).astype(np.float32)


def dataset() -> xr.Dataset:
    image = da.from_array(IMAGE, chunks=(1, 512, 512))
    return xr.Dataset(
        {
            "image": (("band", "y", "x"), image, {"units": "adu"}),
            "name": ("frame", np.array(["é.fits", "b"])),
            "use": ("frame", np.array([True, False])),
            "note": ((), np.array(3.5)),
        },
        {"band": ["L"]},
        {"left_out": "[]"},
    )


def fill(store: Store, data: xr.Dataset) -> None:
    layout = Layout.of(data, ("band", "y", "x"), node="n")
    writer = store.prepare("n", "k", data, layout, {"op": "x"})
    for unit in layout.units():
        region = layout.variables[0].region(unit)
        checksum = writer.write(unit, {"image": IMAGE[region]})
        assert writer.read_checksum(unit) == checksum


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    data = dataset()
    fill(store, data)
    assert not store.is_complete("n", "k")
    with pytest.raises(DataError, match="no complete result of node 'n'"):
        store.open("n")
    store.complete("n", "k", {})
    again = store.open("n")
    assert again["image"].chunks == ((1,), (512, 188), (512, 512, 76))
    xr.testing.assert_identical(again.compute(), data.compute())


def test_shards_are_tiles(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    fill(store, dataset())
    array = zarr.open_array(store.root, path="n/k/image", mode="r")
    assert array.shards == (1, 512, 512)
    assert array.chunks == (1, 256, 256)
    assert len([p for p in Path(str(store.root), "n/k/image/c").rglob("*") if p.is_file()]) == 6


def test_plain_xarray_opens_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    fill(store, dataset())
    opened = xr.open_zarr(store.root, group="n/k", consolidated=False)
    np.testing.assert_array_equal(opened["image"].values, IMAGE)
    assert opened["name"].values.tolist() == ["é.fits", "b"]


def test_rotten_chunk_is_an_error_not_wrong_pixels(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    fill(store, dataset())
    store.complete("n", "k", {})
    chunk = Path(str(store.root), "n/k/image/c/0/0/0")
    damaged = bytearray(chunk.read_bytes())
    damaged[1000] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(ValueError, match="checksum"):
        store.open("n")["image"][0, :256, :256].compute()


def test_wrong_shape_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    data = dataset()
    writer = store.prepare("n", "k", data, Layout.of(data, ("band", "y", "x"), node="n"), {"op": "x"})
    with pytest.raises(DataError, match=r"image of unit \(0, 0, 0\) has shape \(1, 5, 5\), its block is"):
        writer.write((0, 0, 0), {"image": IMAGE[:, :5, :5]})


def test_chunks_that_do_not_follow_the_units_are_the_op_s_error() -> None:
    data = dataset()
    with pytest.raises(ConfigError, match="node 'n': image is in 2 chunks along y, not in one"):
        Layout.of(data, ("band", "x"), node="n")
    data["other"] = (("y", "x"), da.zeros((700, 1100), chunks=(700, 512)))
    with pytest.raises(ConfigError, match="other is chunked unlike the rest along y"):
        Layout.of(data, ("band", "y", "x"), node="n")


def test_an_array_is_opened_once_and_what_is_gone_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "p")
    store.create()
    fill(store, dataset())
    store.complete("n", "k", {})
    opened: list[str] = []
    original = zarr.open_array

    def counted(root: str, *, path: str, **options: Any) -> Any:
        opened.append(path)
        return original(root, path=path, **options)

    monkeypatch.setattr(zarr, "open_array", counted)
    spec = array_spec(store.open("n"), "image", band=0)
    source = pickle.loads(pickle.dumps(open_source(spec)))
    with ThreadPoolExecutor(8) as pool:
        windows = [(slice(i, i + 64), slice(2 * i, 2 * i + 50)) for i in range(0, 500, 5)]
        source.read(*windows[0])
        for window, pixels in zip(windows, pool.map(lambda w: source.read(*w), windows), strict=True):
            np.testing.assert_array_equal(pixels, IMAGE[0][window])
    assert opened == ["n/k/image"]
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as forked:
        np.testing.assert_array_equal(forked.submit(source.read, *windows[3]).result(), IMAGE[0][windows[3]])

    # Another array at the same place: another shape, another type.
    shutil.rmtree(Path(str(store.root), "n"))
    store.write_table(
        "n", "k", dataset()[["note"]].assign(image=(("band", "y", "x"), np.arange(8).reshape(1, 2, 4))), {}
    )
    np.testing.assert_array_equal(source.read(slice(0, 2), slice(1, 3)), [[1, 2], [5, 6]])
    store.remove("n", "k")
    with pytest.raises(DataError, match=r"n/k/image cannot be read .* run again"):
        source.read(slice(0, 2), slice(1, 3))


def test_what_a_kill_leaves_of_a_deleted_result_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "p")
    store.create()
    fill(store, dataset())
    store.complete("n", "k", {})

    def killed(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as now:
        now.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            store.remove("n", "k")
    assert not store.is_complete("n", "k")
    assert store.keys("n") == []


def test_two_results_of_a_node_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    for key, complete in (("a", True), ("b", False), ("c", False), ("d", False)):
        store.prepare("n", key, dataset(), Layout((), (), ()), {"op": "x", "started": 1.0})
        if complete:
            store.complete("n", key, {})
    store.thin("n", "d")
    assert sorted(store.keys("n")) == ["a", "d"]
    store.remove("n", "a")
    store.prepare("n", "e", dataset(), Layout((), (), ()), {"op": "x"})
    store.thin("n", "e")
    assert sorted(store.keys("n")) == ["d", "e"]
