"""What the tests of formats share: frames read whole, and FITS files written without any library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.formats.frame_file import FrameFile
from skyloom.ops.frames import open_source

BLOCK = 2880


@pytest.fixture(scope="session")
def whole() -> Callable[[FrameFile], NDArray[np.float32]]:
    """All pixels of a frame, opened the way other modules do."""

    def read(file: FrameFile) -> NDArray[np.float32]:
        source = open_source(file.source.spec())
        return source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))

    return read


@pytest.fixture(scope="session")
def header_block() -> Callable[..., bytes]:
    """Header of some cards, padded."""

    def build(*cards: str) -> bytes:
        data = b"".join(c.ljust(80).encode("latin-1") for c in (*cards, "END"))
        return data.ljust(-(-len(data) // BLOCK) * BLOCK)

    return build


@pytest.fixture(scope="session")
def plain_file(header_block: Callable[..., bytes]) -> Callable[..., Path]:
    """A primary image, written to a path."""

    def write(path: Path, data: NDArray[Any], *extra: str, simple: str = "T", pad: bool = True) -> Path:
        bits = {"u1": 8, ">i2": 16, ">i4": 32, ">i8": 64, ">f4": -32, ">f8": -64}[data.dtype.str.lstrip("|")]
        cards = [f"SIMPLE  = {simple:>20}", f"BITPIX  = {bits:20d}", f"NAXIS   = {data.ndim:20d}"]
        cards += [f"NAXIS{i + 1}  = {n:20d}" for i, n in enumerate(reversed(data.shape))]
        raw = data.tobytes()
        path.write_bytes(
            header_block(*cards, *extra) + (raw.ljust(-(-len(raw) // BLOCK) * BLOCK, b"\0") if pad else raw)
        )
        return path

    return write


@pytest.fixture(scope="session")
def stored() -> Callable[..., NDArray[Any]]:
    """Stored numbers of a type: integers over their whole range, floats about 1000."""

    def make(kind: str, shape: tuple[int, ...] = (23, 37), seed: int = 1) -> NDArray[Any]:
        dtype = np.dtype(kind)
        random = np.random.default_rng(seed)
        if dtype.kind == "f":
            return random.normal(1000.0, 300.0, shape).astype(dtype)
        info, native = np.iinfo(dtype), dtype.newbyteorder("=")
        values: NDArray[Any] = random.integers(info.min, info.max, shape, dtype=native, endpoint=True)
        values.flat[:2] = info.min, info.max
        return values.astype(dtype)

    return make
