"""What every format makes of a file: frames with source, header and content id, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits_header import Header
from skyloom.ops.frames import FrameSource

if TYPE_CHECKING:
    from astropy.wcs import WCS


class UnusableFile(DataError):
    """A file no frame can be taken from; `reason` is the message without the file."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnusableFile], tuple[str, str]]:
        # The default would call __init__ with the one joined message; workers send errors pickled.
        return (UnusableFile, (self.path, self.reason))


class FileSource(FrameSource, Protocol):
    """A source that can say how to open it again."""

    def spec(self) -> str:
        """Text `open_source` makes this source from."""


@dataclass(frozen=True)
class FrameFile:
    """A frame in a file. A colour image of three planes is three of them, a camera of many chips one a chip."""

    source: FileSource
    header: Header
    """FITS cards. Other formats translate what they know into the keywords FITS programs use."""
    wcs_header: Header
    """Header the WCS is to be taken from."""
    content: str
    """Content id, 16 hex digits: of size, headers and samples of the data (and the plane)."""
    header_digest: str
    """Digest of the headers alone (and the plane)."""
    bitpix: int
    """Type of the stored numbers as FITS names it: 8, 16, 32, 64, -32, -64."""
    bzero: float = 0.0
    """What is added to stored integers: 32768 with 16 bits says they are unsigned."""
    codec: str = ""
    """How the whole file is compressed, "" for not at all: a plain and a compressed copy may be twins."""
    band: str = ""
    """Band of a colour plane ("R", "G", "B"); "" = the header says."""
    part: str = ""
    """What tells the frame from the others of its file: a plane ("R"), a chip ("S4"); "" = it is the only one."""
    notes: tuple[str, ...] = ()
    """Oddities worth telling."""
    tables: Callable[[], WCS] | None = field(default=None, compare=False, repr=False)
    """Opens the tables `wcs_header` refers to (`fits_lookup.lookup_tables`); none = it refers to none."""
    digest_plain: Callable[[], str] | None = field(default=None, compare=False, repr=False)
    """Makes what `plain_content` returns; none = the content id."""

    def plain_content(self) -> str:
        """Digest of headers and data as they are when decompressed: equal for a file and its compressed copy.

        Reads, and decompresses, what it takes. Only comparable where `header_digest` is the same.

        Raises
        ------
        DataError
            If the file cannot be read.
        """
        return self.content if self.digest_plain is None else self.digest_plain()
