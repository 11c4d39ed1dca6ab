"""Sources are opened by spec, once; decoded frames are kept within a bound."""

from __future__ import annotations

import json
import pickle
import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import skyloom.ops.formats.fits_pixels  # noqa: F401  (registers its kind once a process, before the fixture looks)
from skyloom.ops import frames
from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, decoded, forget_decoded, open_source, register_source


@dataclass(frozen=True)
class Flat:
    """A frame of one value."""

    value: float
    shape: tuple[int, int] = (4, 5)
    windowed: bool = True

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        return np.full(self.shape, self.value, dtype=np.float32)[rows, columns].copy()


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    known = dict(frames._factories)
    forget_decoded()
    yield
    frames._factories.clear()
    frames._factories.update(known)
    frames._open.cache_clear()
    forget_decoded()


def test_a_registered_kind_opens_once() -> None:
    made = []

    def factory(fields: dict[str, Any]) -> Flat:
        made.append(fields)
        return Flat(fields["value"])

    register_source("flat-test", factory)
    spec = json.dumps({"kind": "flat-test", "value": 3.0})
    first, second = open_source(spec), open_source(spec)
    assert first is second
    assert len(made) == 1
    assert isinstance(first, FrameSource)
    assert first.read(slice(1, 3), slice(0, 2)).tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_registering_again_replaces() -> None:
    spec = json.dumps({"kind": "flat-test"})
    register_source("flat-test", lambda fields: Flat(1.0))
    assert open_source(spec) == Flat(1.0)
    register_source("flat-test", lambda fields: Flat(2.0))
    assert open_source(spec) == Flat(2.0)


def test_the_fits_reader_needs_no_import() -> None:
    spec = json.dumps(
        {"kind": "fits", "path": "/x", "size": 1, "mtime_ns": 1, "shape": [2, 3], "bitpix": 16, "offset": 0}
    )
    source = open_source(spec)
    assert source.shape == (2, 3)
    assert pickle.loads(pickle.dumps(source)) == source


def test_a_module_in_the_spec_registers_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("skyloom_test_reader")

    with pytest.raises(DataError, match="need the module 'skyloom_test_reader'"):
        open_source(json.dumps({"kind": "late", "module": module.__name__}))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(DataError, match="no reader for frames of kind 'late'"):
        open_source(json.dumps({"kind": "late", "module": module.__name__}))
    register_source("late", lambda fields: Flat(7.0))
    assert open_source(json.dumps({"kind": "late", "module": module.__name__})) == Flat(7.0)


@pytest.mark.parametrize("spec", ["", "no json", "[1]", "{}", '"fits"', "null", "3"])
def test_nonsense_is_refused(spec: str) -> None:
    with pytest.raises(DataError, match="not the source of a frame"):
        open_source(spec)


@pytest.mark.parametrize(
    "fields", [{}, {"path": "x"}, {"path": "x", "size": 1, "mtime_ns": 1, "shape": 3, "bitpix": 8, "offset": 0}]
)
def test_an_incomplete_fits_spec_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not the source of a FITS frame"):
        open_source(json.dumps({"kind": "fits", **fields}))


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"kind 'xyz'; there is: .*fits"):
        open_source('{"kind": "xyz"}')


def test_one_decode_at_a_time_per_key() -> None:
    running, most, calls = 0, 0, 0
    lock = threading.Lock()
    started = threading.Barrier(8)

    def decode() -> NDArray[Any]:
        nonlocal running, most, calls
        with lock:
            running += 1
            calls += 1
            most = max(most, running)
        threading.Event().wait(0.05)
        with lock:
            running -= 1
        return np.arange(10)

    def get(_: int) -> NDArray[Any]:
        started.wait(10)
        return decoded("key", decode)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(get, range(8)))
    assert (most, calls) == (1, 1)
    assert all(r is results[0] for r in results)
    assert not results[0].flags.writeable


def test_a_large_frame_is_decoded_one_at_a_time_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "DECODED_CACHE_BYTES", 50)
    calls = 0

    def decode() -> NDArray[Any]:
        nonlocal calls
        calls += 1
        return np.zeros(100, dtype=np.uint8)

    assert decoded("large", decode).size == 100
    assert decoded("large", decode).size == 100
    assert calls == 2
    assert not frames._entries


def test_the_least_recently_used_leaves_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "DECODED_CACHE_BYTES", 250)
    for key in "ab":
        decoded(key, lambda: np.zeros(100, dtype=np.uint8))
    decoded("a", lambda: pytest.fail("a was dropped"))
    decoded("c", lambda: np.zeros(100, dtype=np.uint8))
    assert list(frames._entries) == ["a", "c"]
    assert sum(v.nbytes for v in frames._entries.values()) <= 250


def test_a_failed_decode_leaves_nothing_behind() -> None:
    def fail() -> NDArray[Any]:
        raise DataError("broken")

    for _ in range(2):
        with pytest.raises(DataError, match="broken"):
            decoded("bad", fail)
    assert decoded("bad", lambda: np.ones(1)).tolist() == [1.0]
    assert not list(frames._gates)
