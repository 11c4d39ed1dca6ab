"""Windows of stored arrays, read past zarr: the same pixels, and damage is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from skyloom.ops.errors import DataError
from skyloom.workflows.store import COMPRESSORS
from skyloom.workflows.viewer import chunks
from skyloom.workflows.viewer.chunks import StoredPixels
from skyloom.workflows.viewer.kept import Kept

LAYOUTS: dict[str, dict[str, Any]] = {
    "shards": {"chunks": (1, 16, 16), "shards": (1, 64, 64), "compressors": COMPRESSORS},
    "planes in a shard": {"chunks": (3, 16, 16), "shards": (3, 32, 48), "compressors": COMPRESSORS},
    "chunks": {"chunks": (1, 50, 37), "compressors": COMPRESSORS},
    "not compressed": {"chunks": (2, 50, 37), "compressors": None},
    "of another program": {"chunks": (1, 50, 37), "compressors": [zarr.codecs.GzipCodec()]},
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_decoded", Kept(2**20, lambda a: a.nbytes))


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_windows_are_those_of_zarr(tmp_path: Path, layout: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.uniform(0, 1000, (3, 150, 130)).astype(dtype)
    fill = np.nan if dtype == "float32" else 0
    root = zarr.create_group(tmp_path / "s.zarr", zarr_format=3)
    array = root.create_array("image", shape=pixels.shape, dtype=dtype, fill_value=fill, **LAYOUTS[layout])
    # The last rows are never written.
    array[:, :100] = pixels[:, :100]
    stored = StoredPixels(tmp_path / "s.zarr" / "image")
    assert stored.layout.plain == (layout != "of another program")
    windows = [(0, 150, 0, 130), (15, 17, 15, 17), (60, 70, 100, 130), (99, 130, 1, 2), (140, 150, 3, 90)]
    for plane in range(3):
        for top, bottom, left, right in windows:
            found = stored.read((plane,), slice(top, bottom), slice(left, right))
            assert found.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(found, array[plane, top:bottom, left:right])


def test_an_image_without_planes(tmp_path: Path) -> None:
    pixels = np.arange(30.0, dtype=np.float32).reshape(5, 6)
    zarr.create_array(tmp_path / "a", data=pixels, chunks=(3, 4), zarr_format=3, compressors=COMPRESSORS)
    found = StoredPixels(tmp_path / "a").read((), slice(1, 5), slice(2, 6))
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
    with pytest.raises(DataError, match="damaged"):
        StoredPixels(tmp_path / "s.zarr" / "image").read((0,), slice(0, 16), slice(0, 16))


def test_what_is_no_array(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no array"):
        StoredPixels(tmp_path / "nothing")


def test_a_rewritten_file_is_read_again(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "s.zarr", zarr_format=3)
    array = root.create_array("image", shape=(1, 64, 64), dtype="f4", **LAYOUTS["shards"])
    array[:] = 1.0
    stored = StoredPixels(tmp_path / "s.zarr" / "image")
    window = slice(0, 8), slice(0, 8)
    assert (stored.read((0,), *window) == 1.0).all()
    array[:] = np.random.default_rng(2).normal(size=(1, 64, 64)).astype(np.float32)
    np.testing.assert_array_equal(stored.read((0,), *window), array[0, :8, :8])


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
