"""Pixels of XISF images: by window where the block is not compressed, else decoded whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits_pixels import physical
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.formats.plain_pixels import check_unchanged, read_bytes, read_channel
from skyloom.ops.formats.xisf_blocks import Block, block_bytes, decompressed
from skyloom.ops.formats.xisf_header import read_header
from skyloom.ops.frames import decoded, register_source


@dataclass(frozen=True)
class XisfSource:
    """Plan of one channel of an image in an XISF file. Row 0 is the first stored row, the top of the picture."""

    path: str
    size: int
    """Bytes of the file when it was ingested."""
    mtime_ns: int
    shape: tuple[int, int]
    dtype: str
    """Stored numbers, as numpy names them."""
    block: Block
    image: int = 0
    """Which Image element of the header."""
    channel: int = 0
    channels: int = 1
    interleaved: bool = False
    """True: all channels of a pixel lie together; False: one channel after the other."""

    @property
    def windowed(self) -> bool:
        """True: a window is read without decoding the whole frame."""
        return self.block.plain

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        return json.dumps({"kind": "xisf", "module": __name__, **asdict(self)}, separators=(",", ":"))

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window as stored (see `FrameSource.read`); a checksum is verified where all is decoded."""
        check_unchanged(self.path, self.size, self.mtime_ns)
        try:
            if self.windowed:
                raw = read_channel(
                    self.path,
                    np.dtype(self.dtype),
                    offset=self.block.offset,
                    shape=self.shape,
                    channel=self.channel,
                    channels=self.channels,
                    interleaved=self.interleaved,
                    window=(rows, columns),
                )
            else:
                key = (self.path, self.size, self.mtime_ns, "xisf", self.image)
                raw = self._channel(decoded(key, self._decode))[rows, columns]
            return physical(raw)
        except DataError:
            raise
        except (OSError, ValueError) as failure:
            raise UnusableFile(self.path, f"cannot be read: {failure}") from failure

    def _channel(self, data: NDArray[Any]) -> NDArray[Any]:
        return data[:, :, self.channel] if self.interleaved else data[self.channel]

    def _decode(self) -> NDArray[Any]:
        """All channels as stored numbers, (channel, row, column) or, interleaved, (row, column, channel)."""
        if self.block.offset >= 0:
            stored = read_bytes(self.path, self.block.offset, self.block.stored)
        else:
            images = read_header(self.path).images
            if self.image >= len(images):
                raise UnusableFile(self.path, "changed since it was ingested; run again")
            stored = block_bytes(self.path, self.block, images[self.image].text)
        data = decompressed(self.path, self.block, stored).view(self.dtype)
        height, width = self.shape
        return data.reshape((height, width, -1) if self.interleaved else (-1, height, width))


def _from_fields(fields: dict[str, Any]) -> XisfSource:
    values = {k: v for k, v in fields.items() if k != "kind"}
    try:
        parts = tuple((int(c), int(u)) for c, u in values["block"].pop("parts"))
        values["block"] = Block(**values["block"], parts=parts)
        values["shape"] = (int(values["shape"][0]), int(values["shape"][1]))
        return XisfSource(**values)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as wrong:
        raise DataError(f"not the source of an XISF frame ({wrong}); make it with `ingest`") from wrong


register_source("xisf", _from_fields)
