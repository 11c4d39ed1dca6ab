"""Frames: where pixels come from, by window, in any process.

A frame travels as a JSON text (its spec). Whoever needs pixels calls `open_source(spec)`: sources hold no open
file, so they can be cached per process, shared by threads and pickled.
"""

from __future__ import annotations

import importlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError

DECODED_CACHE_BYTES = 256 * 2**20
"""Bound of what `decoded` keeps in a process (bytes)."""


@runtime_checkable
class FrameSource(Protocol):
    """The pixels of one frame."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns (pixels)."""

    @property
    def windowed(self) -> bool:
        """True: a window is read without decoding the whole frame."""

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window.

        Parameters
        ----------
        rows, columns
            Within bounds, step 1.

        Returns
        -------
        numpy.ndarray
            float32 (rows, columns): fresh, C-contiguous, writable, in physical units; NaN = no data.

        Raises
        ------
        DataError
            If the file is gone, cannot be read, or changed since it was ingested.
        """


Factory = Callable[[dict[str, Any]], FrameSource]

_factories: dict[str, Factory] = {}
_BUILT_IN = {"fits": "skyloom.ops.formats.fits_pixels"}


def register_source(kind: str, factory: Factory) -> None:
    """Teach this process to open specs `{"kind": kind, ...}`; replaces an earlier factory.

    A process that has not run this call (a worker) can still open the spec when it has a "module" entry: the
    module of that name is imported first and registers the kind.
    """
    _factories[kind] = factory
    _open.cache_clear()


def open_source(spec: str) -> FrameSource:
    """Source of a spec, opened once a process.

    Raises
    ------
    DataError
        If the spec is no JSON object with a known "kind".
    """
    return _open(spec)


@lru_cache(maxsize=16384)
def _open(spec: str) -> FrameSource:
    try:
        fields = json.loads(spec)
        kind = str(fields["kind"])
    except (ValueError, TypeError, KeyError):
        raise DataError(f"not the source of a frame: {spec[:80]!r}; make it with `ingest`") from None
    module = fields.pop("module", None) or _BUILT_IN.get(kind)
    if kind not in _factories and module is not None:
        try:
            importlib.import_module(module)
        except ImportError as missing:
            raise DataError(f"frames of kind {kind!r} need the module {module!r}: {missing}") from missing
    if kind not in _factories:
        known = ", ".join(sorted({*_factories, *_BUILT_IN}))
        raise DataError(f"no reader for frames of kind {kind!r}; there is: {known}")
    return _factories[kind](fields)


_entries: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
_entries_lock = threading.Lock()
_gates: WeakValueDictionary[Hashable, _Gate] = WeakValueDictionary()


class _Gate:
    """A lock that dies with its last holder (a bare lock cannot be told apart from a stale one)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def decoded(key: Hashable, decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Whole decoded frame from the process-wide cache; decodes at most once at a time per key.

    The frames used longest ago leave when the sum exceeds `DECODED_CACHE_BYTES`; a frame larger than that is
    handed out but not kept.

    Parameters
    ----------
    key
        Says which file, in which state.
    decode
        Makes the array.

    Returns
    -------
    numpy.ndarray
        Shared between callers: read-only.
    """
    with _entries_lock:
        pixels = _entries.get(key)
        if pixels is not None:
            _entries.move_to_end(key)
            return pixels
        gate = _gates.get(key)
        if gate is None:
            gate = _gates[key] = _Gate()
    with gate.lock:
        with _entries_lock:
            pixels = _entries.get(key)
        if pixels is not None:
            return pixels
        pixels = decode()
        pixels.flags.writeable = False
        with _entries_lock:
            if pixels.nbytes <= DECODED_CACHE_BYTES:
                _entries[key] = pixels
                total = sum(p.nbytes for p in _entries.values())
                while total > DECODED_CACHE_BYTES:
                    total -= _entries.popitem(last=False)[1].nbytes
        return pixels


def forget_decoded() -> None:
    """Drop every decoded frame this process keeps."""
    with _entries_lock:
        _entries.clear()
