"""Pixels of TIFF images: by window where they lie uncompressed in one stretch, else decoded whole."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits_pixels import physical
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.formats.plain_pixels import check_unchanged, read_bytes, read_channel
from skyloom.ops.frames import decoded, register_source

if TYPE_CHECKING:
    from tifffile import TiffPage


@dataclass(frozen=True)
class TiffSource:
    """Plan of one channel of the first image in a TIFF file. Row 0 is the first stored row."""

    path: str
    size: int
    """Bytes of the file when it was ingested."""
    mtime_ns: int
    shape: tuple[int, int]
    dtype: str
    """Stored numbers, as numpy names them."""
    offset: int = -1
    """First byte of the pixels where they lie uncompressed in one stretch; −1: they do not."""
    channel: int = 0
    channels: int = 1
    interleaved: bool = False
    """True: all channels of a pixel lie together; False: one channel after the other."""

    @classmethod
    def of(cls, page: TiffPage, *, path: str, size: int, mtime_ns: int, channel: int) -> TiffSource:
        """Plan of a channel of a page."""
        assert page.dtype is not None
        channels = page.samplesperpixel
        return cls(
            path=path,
            size=size,
            mtime_ns=mtime_ns,
            shape=(page.imagelength, page.imagewidth),
            dtype=page.dtype.newbyteorder(page.parent.byteorder).str,
            offset=_one_stretch(path, page),
            channel=channel,
            channels=channels,
            interleaved=channels > 1 and page.planarconfig == 1,
        )

    @property
    def windowed(self) -> bool:
        """True: a window is read without decoding the whole frame."""
        return self.offset >= 0

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        return json.dumps({"kind": "tiff", "module": __name__, **asdict(self)}, separators=(",", ":"))

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window as stored (see `FrameSource.read`)."""
        check_unchanged(self.path, self.size, self.mtime_ns)
        try:
            if self.windowed:
                raw = read_channel(
                    self.path,
                    np.dtype(self.dtype),
                    offset=self.offset,
                    shape=self.shape,
                    channel=self.channel,
                    channels=self.channels,
                    interleaved=self.interleaved,
                    window=(rows, columns),
                )
            else:
                key = (self.path, self.size, self.mtime_ns, "tiff")
                raw = decoded(key, self._decode)[self.channel, rows, columns]
            return physical(raw)
        except DataError:
            raise
        except (OSError, ValueError) as failure:
            raise UnusableFile(self.path, f"cannot be read: {failure}") from failure

    def _decode(self) -> NDArray[Any]:
        """All channels (channel, row, column) as stored numbers."""
        page = _page(self.path, self.size, self.mtime_ns)
        dtype = np.dtype(self.dtype).newbyteorder("=")
        data = np.empty((self.channels, *self.shape), dtype)
        covered = 0
        try:
            for index, (offset, count) in enumerate(segments(self.path, page)):
                stored = read_bytes(self.path, offset, count)
                segment, place, shape = page.decode(stored, index, jpegtables=page.jpegtables)
                if segment is None:
                    raise ValueError(f"strip or tile {index} is empty")
                pixels = segment.reshape(shape)[0]
                channel, _, y, x, _ = place
                part = data[:, y : y + shape[1], x : x + shape[2]]
                if self.interleaved:
                    part[...] = pixels.transpose(2, 0, 1)[:, : part.shape[1], : part.shape[2]]
                    covered += part.size
                else:
                    part[channel] = pixels[: part.shape[1], : part.shape[2], 0]
                    covered += part[channel].size
        except UnusableFile:
            raise
        # Decoders raise what they like on corrupt data.
        except Exception as failure:
            codec = getattr(page.compression, "name", str(page.compression))
            raise UnusableFile(self.path, f"corrupt data ({codec}): {failure}; copy it again") from failure
        if covered != data.size:
            raise UnusableFile(self.path, f"broken TIFF: strips of {covered} numbers for {data.size}")
        return data


@lru_cache(maxsize=64)
def _page(path: str, size: int, mtime_ns: int) -> TiffPage:
    """First page of a file in a certain state."""
    from skyloom.ops.formats.tiff import first_page

    del size, mtime_ns
    return first_page(path)[0]


def segments(path: str, page: TiffPage) -> list[tuple[int, int]]:
    """Offset and bytes of every strip or tile.

    Raises
    ------
    UnusableFile
        If there are not as many as the image has, or one has no place.
    """
    offsets, counts = tuple(page.dataoffsets), tuple(page.databytecounts)
    expected = math.prod(page.chunked)
    if len(offsets) != len(counts) or len(offsets) != expected or not expected:
        raise UnusableFile(
            path, f"broken TIFF: {len(offsets)} places and {len(counts)} lengths of {expected} strips or tiles"
        )
    if min(offsets) <= 0 or min(counts) <= 0:
        raise UnusableFile(path, "broken TIFF: a strip or tile without data; copy it again")
    return list(zip(offsets, counts, strict=True))


def _one_stretch(path: str, page: TiffPage) -> int:
    """Offset of all pixels where they are one stretch of plain numbers, else −1."""
    if page.compression != 1 or page.is_tiled or page.predictor != 1 or page.fillorder != 1:
        return -1
    places = segments(path, page)
    follow = all(a[0] + a[1] == b[0] for a, b in pairwise(places))
    if not follow or places[-1][0] + places[-1][1] - places[0][0] != page.nbytes:
        return -1
    return places[0][0]


def _from_fields(fields: dict[str, Any]) -> TiffSource:
    values = {k: v for k, v in fields.items() if k != "kind"}
    try:
        values["shape"] = (int(values["shape"][0]), int(values["shape"][1]))
        return TiffSource(**values)
    except (TypeError, KeyError, ValueError, IndexError) as wrong:
        raise DataError(f"not the source of a TIFF frame ({wrong}); make it with `ingest`") from wrong


register_source("tiff", _from_fields)
