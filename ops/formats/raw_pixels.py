"""Pixels of camera raw files: decoded whole by LibRaw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.formats.plain_pixels import check_unchanged
from skyloom.ops.frames import decoded, register_source

if TYPE_CHECKING:
    import rawpy


@contextmanager
def opened(path: str) -> Iterator[rawpy.RawPy]:
    """Open a camera raw file.

    Raises
    ------
    UnusableFile
        If rawpy is not installed, or LibRaw finds the file unknown or broken, now or while it is used.
    """
    try:
        import rawpy
    except ImportError as missing:
        raise UnusableFile(path, "a camera raw file: `pip install skyloom[raw]` to read it (rawpy)") from missing
    try:
        with rawpy.imread(path) as raw:
            raw.unpack()
            yield raw
    except rawpy.LibRawFileUnsupportedError as failure:
        raise UnusableFile(path, "no camera raw file LibRaw knows: broken, cut short, or too new") from failure
    except (rawpy.LibRawError, rawpy.NotSupportedError, RuntimeError, MemoryError) as failure:
        said = failure.args[0] if failure.args else failure
        text = said.decode("latin-1") if isinstance(said, bytes) else str(said)
        raise UnusableFile(path, f"broken camera raw file ({text}); copy it again") from failure


@dataclass(frozen=True)
class RawSource:
    """The mosaic of a camera's sensor as it was read out. Row 0 is the first stored row of the visible area."""

    path: str
    size: int
    """Bytes of the file when it was ingested."""
    mtime_ns: int
    shape: tuple[int, int]
    excess: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Black levels of the pixels of a 2x2 block, row by row, above the lowest of them: subtracted."""

    @property
    def windowed(self) -> bool:
        """False: to read any pixel all are decoded."""
        return False

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        return json.dumps({"kind": "raw", "module": __name__, **asdict(self)}, separators=(",", ":"))

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window in the camera's numbers (see `FrameSource.read`)."""
        check_unchanged(self.path, self.size, self.mtime_ns)
        try:
            stored = decoded((self.path, self.size, self.mtime_ns, "raw"), self._decode)
        except OSError as failure:
            raise UnusableFile(self.path, f"cannot be read: {failure}") from failure
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        pixels = stored[top:bottom, left:right].astype(np.float32, order="C")
        for phase, level in enumerate(self.excess):
            if level:
                y, x = (phase // 2 - top) % 2, (phase % 2 - left) % 2
                pixels[y::2, x::2] -= np.float32(level)
        return pixels

    def _decode(self) -> NDArray[np.uint16]:
        with opened(self.path) as raw:
            visible = raw.raw_image_visible
            if visible.shape != self.shape:
                raise UnusableFile(self.path, "changed since it was ingested; run again")
            return np.array(visible, np.uint16)


def _from_fields(fields: dict[str, Any]) -> RawSource:
    values = {k: v for k, v in fields.items() if k != "kind"}
    try:
        values["shape"] = (int(values["shape"][0]), int(values["shape"][1]))
        a, b, c, d = (float(v) for v in values["excess"])
        return RawSource(**{**values, "excess": (a, b, c, d)})
    except (TypeError, KeyError, ValueError, IndexError) as wrong:
        raise DataError(f"not the source of a camera raw frame ({wrong}); make it with `ingest`") from wrong


register_source("raw", _from_fields)
