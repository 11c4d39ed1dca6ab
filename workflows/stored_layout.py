"""How an array of a result lies in the store, and how it comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from skyloom.workflows.layout import VariableLayout
from skyloom.workflows.shards import read_window
from skyloom.workflows.stored import damage, stored_array

INNER_CHUNK = 256
"""Chunk inside a shard (pixels): what a preview or a halo reads at least."""

# Noise does not compress: lz4 with bit shuffling costs next to nothing and takes what there is.
# The checksum makes a chunk that rots or was torn by a power cut an error, never wrong pixels.
COMPRESSORS = (BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec())


def as_text(data: NDArray[Any]) -> NDArray[Any]:
    """Stored texts come back as numpy's fixed-width ones, which xarray and == handle everywhere."""
    return np.array(data.tolist(), dtype=str) if data.dtype.kind in "OT" else data


class StoredArray:
    """An array of the store by name: pickles to a path, opens where it is used."""

    def __init__(self, root: str, path: str) -> None:
        self.root, self.path = root, path
        array = self._array()
        self.shape = array.shape
        text = array.attrs.get("text_width")
        self.dtype = np.dtype(f"<U{text}") if text else np.dtype(array.dtype)
        self.ndim = len(self.shape)

    def _array(self) -> zarr.Array[Any]:
        return stored_array(self.root, self.path)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with damage(self.root, self.path):
            data = read_window(self._array(), index if isinstance(index, tuple) else (index,))
        return data.astype(self.dtype) if self.dtype.kind == "U" else data


def create_lazy(group: zarr.Group, variable: VariableLayout, source: xr.Variable) -> None:
    """Lay an array out whose blocks are written by units."""
    dtype = np.dtype(variable.dtype)
    block = tuple(max(1, b) for b in variable.block)
    shards, chunks = None, block
    # Only tiles of pixels are worth cutting again, and only if whole inner chunks fill them.
    if len(block) >= 2 and all(b > INNER_CHUNK and b % INNER_CHUNK == 0 for b in block[-2:]):
        shards, chunks = block, (*block[:-2], INNER_CHUNK, INNER_CHUNK)
    text = dtype.kind == "U"
    attributes: dict[str, Any] = {**_plain_attrs(source.attrs), "lazy": True}
    if text:
        attributes["text_width"] = dtype.itemsize // 4
    group.create_array(
        variable.name,
        shape=variable.shape,
        dtype=str if text else dtype,
        chunks=chunks,
        shards=shards,
        compressors=(Crc32cCodec(),) if text else COMPRESSORS,
        fill_value="" if text else (np.nan if dtype.kind == "f" else 0),
        dimension_names=variable.dims,
        attributes=attributes,
    )


def write_array(group: zarr.Group, name: str, variable: xr.Variable) -> None:
    """Write an array that no unit writes."""
    data = np.asarray(variable.values)
    text = data.dtype.kind in "UOT"
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=str if text else data.dtype,
        chunks=tuple(max(1, n) for n in data.shape) or (),
        compressors=(Crc32cCodec(),) if text else COMPRESSORS,
        fill_value="" if text else (np.nan if data.dtype.kind == "f" else 0),
        dimension_names=tuple(str(d) for d in variable.dims),
        attributes=_plain_attrs(variable.attrs),
    )
    if data.size:
        array[...] = data.astype(object) if text else data


def _plain_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    plain: dict[str, Any] = json.loads(json.dumps({str(k): v for k, v in attrs.items()}, default=_to_plain))
    return plain


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
