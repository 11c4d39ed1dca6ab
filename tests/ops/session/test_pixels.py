"""Pixels of the frames of a session."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from astropy.io import fits

from skyloom.ops import frames
from skyloom.ops.frames import open_source
from skyloom.ops.session.ingest import ingest
from skyloom.ops.session.pixels import frame_pixels


def write(path: Path, shape: tuple[int, int] = (30, 40), **cards: Any) -> Path:
    data = np.random.default_rng(1).normal(1000, 9, shape).astype(np.uint16)
    fits.PrimaryHDU(data, fits.Header(cards)).writeto(path)
    return path


def no_compute(graph: object, keys: object, **_: object) -> None:
    raise AssertionError("computed")


def test_frame_pixels_are_lazy_and_cut_in_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyloom.ops.session.pixels.BLOCK_BYTES", 40 * 4 * 8)
    path = write(tmp_path / "a.fits", FILTER="R", BUNIT="ADU")
    session = ingest(tmp_path)
    with dask.config.set(scheduler=no_compute):
        pixels = frame_pixels(session, 0)
    assert pixels.dims == ("y", "x")
    assert pixels.chunks == ((8, 8, 8, 6), (40,))
    assert pixels.dtype == np.float32
    assert pixels.attrs == {"name": "a.fits", "units": "adu", "band": "R"}
    np.testing.assert_array_equal(pixels.compute(scheduler="synchronous"), fits.getdata(path))
    np.testing.assert_array_equal(pixels[9:12, 5:7].compute(scheduler="threads"), fits.getdata(path)[9:12, 5:7])
    assert frame_pixels(session, 0).data.name == pixels.data.name


def test_a_compressed_frame_is_one_chunk_and_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write(tmp_path / "plain", shape=(300, 200))
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    calls = []
    original = frames.decoded
    monkeypatch.setattr("skyloom.ops.session.pixels.BLOCK_BYTES", 1000)
    pixels = frame_pixels(ingest(tmp_path), 0)
    assert pixels.chunks == ((300,), (200,))
    source = open_source(str(ingest(tmp_path)["source"].values[0]))

    def counted(key: Any, decode: Callable[[], Any]) -> Any:
        def run() -> Any:
            calls.append(threading.get_ident())
            return decode()

        return original(key, run)

    frames.forget_decoded()
    monkeypatch.setattr("skyloom.ops.formats.fits_pixels.decoded", counted)
    for y in range(0, 300, 50):
        source.read(slice(y, y + 50), slice(0, 200))
    assert len(calls) == 1
