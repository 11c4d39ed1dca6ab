"""A simulated session in one small file: its frames are computed where they are read, none lies on a disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.formats.cards import header_of
from skyloom.ops.formats.fits_header import Card
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.formats.plain_pixels import check_unchanged, file_state
from skyloom.ops.frames import register_source
from skyloom.ops.simulation import quick
from skyloom.ops.simulation.session import SimulatedSession

KIND = "session-file"
SUFFIXES: tuple[str, ...] = (".sky",)
_HEAD = b'{"skyloom": "simulated session"'


def matches(head: bytes, suffix: str) -> bool:
    """Say whether a file is a session by its first bytes."""
    return head.startswith(_HEAD)


def session_text(session: SimulatedSession) -> str:
    """What a session's file holds."""
    return json.dumps({"skyloom": "simulated session", "session": session.to_dict()}, indent=None) + "\n"


@lru_cache(maxsize=8)
def _session(path: str, size: int, mtime_ns: int) -> SimulatedSession:
    try:
        return SimulatedSession.from_dict(json.loads(Path(path).read_text(encoding="utf-8"))["session"])
    except OSError as failure:
        raise UnusableFile(path, f"cannot be read: {failure.strerror or failure}") from failure
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as failure:
        raise UnusableFile(
            path, f"no simulated session: {failure}; make it again with `skyloom simulate --lazy`"
        ) from failure


@dataclass(frozen=True)
class DrawnSource:
    """A frame of a session that is in a file, as a `FrameSource`."""

    path: str
    size: int
    """Bytes of the file when it was ingested."""
    mtime_ns: int
    frame: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns (pixels)."""
        return _session(self.path, self.size, self.mtime_ns).shape(self.frame)

    @property
    def windowed(self) -> bool:
        """Always: only the window is computed."""
        return True

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        fields = {"path": self.path, "size": self.size, "mtime_ns": self.mtime_ns, "frame": self.frame}
        return json.dumps({"kind": KIND, "module": __name__, **fields}, separators=(",", ":"))

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window, float32.

        Notes
        -----
        Calibrated frames of a detector without fixed patterns are drawn by `quick`, others exactly.
        """
        check_unchanged(self.path, self.size, self.mtime_ns)
        session = _session(self.path, self.size, self.mtime_ns)
        frame = session.descriptors()[self.frame]
        if not session.raw and frame.kind == "light" and quick.drawable(frame.camera, frame.exposure):
            return quick.draw(frame.camera, frame.exposure, session.sky, rows, columns)
        pixels = session.render(self.frame, rows=rows, columns=columns)
        return np.ascontiguousarray(pixels, dtype=np.float32)


def open_drawn(fields: Mapping[str, Any]) -> DrawnSource:
    """Make the source of a parsed spec; the factory of kind "session-file"."""
    return DrawnSource(str(fields["path"]), int(fields["size"]), int(fields["mtime_ns"]), int(fields["frame"]))


def examine(path: str | Path) -> list[FrameFile]:
    """Frames of the session in a file, with the headers their files would have.

    Raises
    ------
    UnusableFile
        If the file does not hold a session this version knows.
    """
    name = os.fspath(Path(path).absolute())
    size, mtime_ns, _ = file_state(name)
    session = _session(name, size, mtime_ns)
    digest = blake2b(Path(name).read_bytes()).digest()
    files = []
    for frame, stored in zip(session.descriptors(), session.paths, strict=True):
        cards = session.header(frame.index)
        header = header_of({keyword: Card(value, "") for keyword, value in cards.items()})
        identity = blake2b(digest + frame.index.to_bytes(8, "big"), digest_size=8).hexdigest()
        files.append(
            FrameFile(
                source=DrawnSource(name, size, mtime_ns, frame.index),
                header=header,
                wcs_header=header,
                content=identity,
                header_digest=identity,
                bitpix=16 if session.raw else -32,
                bzero=32768.0 if session.raw else 0.0,
                part=stored.removesuffix(".fits"),
            )
        )
    return files


register_source(KIND, open_drawn)
