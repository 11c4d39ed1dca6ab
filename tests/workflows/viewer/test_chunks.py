"""Windows of stored arrays, as the viewer reads them: the same pixels as zarr's, and damage is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from skyloom.ops.errors import DataError
from skyloom.workflows.shards import packing
from skyloom.workflows.stored import DamagedResult, StoredSource
from skyloom.workflows.stored_layout import COMPRESSORS
from skyloom.workflows.viewer.kept import Kept

LAYOUTS: dict[str, dict[str, Any]] = {
    "shards": {"chunks": (1, 16, 16), "shards": (1, 64, 64), "compressors": COMPRESSORS},
    "planes in a shard": {"chunks": (3, 16, 16), "shards": (3, 32, 48), "compressors": COMPRESSORS},
    "chunks": {"chunks": (1, 50, 37), "compressors": COMPRESSORS},
    "not compressed": {"chunks": (2, 50, 37), "compressors": None},
    "of another program": {"chunks": (1, 50, 37), "compressors": [zarr.codecs.GzipCodec()]},
}


def plane(folder: Path, number: int, shape: tuple[int, int] = (64, 64)) -> StoredSource:
    return StoredSource(str(folder.parent), folder.name, (number, -1, -1), shape)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dtype", ["float32", "uint16", "bool"])
def test_windows_are_those_of_zarr(tmp_path: Path, layout: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 2 if dtype == "bool" else 1000, (3, 150, 130)).astype(dtype)
    fill = np.nan if dtype == "float32" else 0
    root = zarr.create_group(tmp_path / "s.zarr", zarr_format=3)
    array = root.create_array("image", shape=pixels.shape, dtype=dtype, fill_value=fill, **LAYOUTS[layout])
    # The last rows are never written.
    array[:, :100] = pixels[:, :100]
    assert (packing(array) is None) == (layout in ("of another program", "not compressed"))
    windows = [(0, 150, 0, 130), (15, 17, 15, 17), (60, 70, 100, 130), (99, 130, 1, 2), (140, 150, 3, 90)]
    for number in range(3):
        stored = plane(tmp_path / "s.zarr" / "image", number, (150, 130))
        for top, bottom, left, right in windows:
            window = slice(top, bottom), slice(left, right)
            found = stored.values(*window)
            assert found.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(found, array[(number, *window)])
            as_float = stored.read(*window)
            assert as_float.dtype == np.float32
            np.testing.assert_array_equal(as_float, array[(number, *window)])


def test_an_image_without_planes(tmp_path: Path) -> None:
    pixels = np.arange(30.0, dtype=np.float32).reshape(5, 6)
    zarr.create_array(tmp_path / "a", data=pixels, chunks=(3, 4), zarr_format=3, compressors=COMPRESSORS)
    found = StoredSource(str(tmp_path), "a", (-1, -1), (5, 6)).values(slice(1, 5), slice(2, 6))
    np.testing.assert_array_equal(found, pixels[1:5, 2:6])


@pytest.mark.parametrize("layout", ["shards", "chunks"])
def test_damage_is_an_error_and_no_pixel(tmp_path: Path, layout: str) -> None:
    pixels = np.random.default_rng(1).normal(size=(1, 64, 64)).astype(np.float32)
    root = zarr.create_group(tmp_path / "s.zarr", zarr_format=3)
    root.create_array("image", shape=pixels.shape, dtype="f4", **LAYOUTS[layout])[:] = pixels
    file = tmp_path / "s.zarr" / "image" / "c" / "0" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[200] ^= 0xFF
    file.write_bytes(bytes(data))
    with pytest.raises(DamagedResult, match="damaged"):
        plane(tmp_path / "s.zarr" / "image", 0).values(slice(0, 16), slice(0, 16))


def test_what_is_no_array(tmp_path: Path) -> None:
    nothing = plane(tmp_path / "nothing", 0)
    for ask in (lambda: nothing.chunk, lambda: nothing.values(slice(0, 1), slice(0, 1))):
        with pytest.raises(DataError, match="cannot be read"):
            ask()


@pytest.mark.parametrize("layout", ["shards", "planes in a shard", "chunks"])
def test_files_of_a_window_are_those_it_needs(tmp_path: Path, layout: str) -> None:
    root = zarr.create_group(tmp_path / "s.zarr", zarr_format=3)
    array = root.create_array("image", shape=(3, 150, 130), dtype="f4", **LAYOUTS[layout])
    array[:] = 1.0
    window = slice(20, 70), slice(60, 70)
    stored = plane(tmp_path / "s.zarr" / "image", 1, (150, 130))
    files = stored.files(*window)
    assert all(isinstance(f, Path) and f.is_file() for f in files)
    for path in (tmp_path / "s.zarr" / "image" / "c").rglob("*"):
        if path.is_file() and path not in files:
            path.unlink()
    assert (stored.values(*window) == 1.0).all()
    files[0].unlink()
    assert not (stored.values(*window) == 1.0).all()


def test_a_rewritten_file_is_read_again(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "s.zarr", zarr_format=3)
    array = root.create_array("image", shape=(1, 64, 64), dtype="f4", **LAYOUTS["shards"])
    array[:] = 1.0
    stored = plane(tmp_path / "s.zarr" / "image", 0)
    window = slice(0, 8), slice(0, 8)
    assert (stored.values(*window) == 1.0).all()
    array[:] = np.random.default_rng(2).normal(size=(1, 64, 64)).astype(np.float32)
    np.testing.assert_array_equal(stored.values(*window), array[0, :8, :8])


def test_kept_stays_within_its_budget_and_makes_once() -> None:
    kept: Kept[bytes] = Kept(100, len)
    made: list[int] = []

    def make(n: int, size: int) -> bytes:
        made.append(n)
        return bytes(size)

    for n in (1, 2, 1, 3, 2):
        kept.get(n, lambda n=n: make(n, 40))  # type: ignore[misc]
    # 2 had to go for 3, 1 was used since.
    assert made == [1, 2, 3, 2]
    assert kept.total <= 100
    kept.get(9, lambda: make(9, 400))
    kept.get(9, lambda: make(9, 400))
    assert made[-2:] == [9, 9]
    assert kept.total <= 100
