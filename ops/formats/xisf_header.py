"""Header of an XISF file: its images with their keywords and properties, as the XML has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.formats.plain_pixels import file_state, read_bytes

SIGNATURE = b"XISF0100"
PREAMBLE = 16
"""Bytes in front of the XML: signature, length of the XML (little-endian, 4 bytes), 4 reserved."""
MAX_HEADER_BYTES = 64 * 2**20


@dataclass
class XisfImage:
    """An Image element."""

    attributes: dict[str, str]
    text: str = ""
    """Inline or embedded data."""
    data: dict[str, str] | None = None
    """Attributes of the Data element of an embedded image."""
    keywords: list[tuple[str, str, str]] = field(default_factory=list)
    """FITSKeyword elements: name, value, comment."""
    properties: dict[str, str] = field(default_factory=dict)
    filters: dict[str, str] | None = None
    """Attributes of the ColorFilterArray element."""


@dataclass
class XisfHeader:
    """What a header says."""

    size: int
    """Bytes of the file."""
    mtime_ns: int
    xml: bytes
    images: list[XisfImage] = field(default_factory=list)
    properties: dict[str, str] = field(default_factory=dict)
    """Of the whole file."""


def read_header(path: str) -> XisfHeader:
    """Read the header of an XISF file.

    Raises
    ------
    UnusableFile
        If it is no XISF file, or its header is broken.
    """
    size, mtime_ns, head = file_state(path)
    if not head.startswith(SIGNATURE):
        raise UnusableFile(path, f"not an XISF file: it begins with {head[:8]!r}, not with XISF0100")
    length = int.from_bytes(head[8:12], "little")
    if len(head) < PREAMBLE or PREAMBLE + length > size:
        raise UnusableFile(
            path, f"truncated header: it ends at byte {PREAMBLE + length}, the file has {size}; copy it again"
        )
    if length > MAX_HEADER_BYTES:
        raise UnusableFile(path, f"a header of {length} bytes: more than {MAX_HEADER_BYTES} are not read")
    xml = read_bytes(path, PREAMBLE, length)
    header = XisfHeader(size, mtime_ns, xml)
    _Reader(header).parse(path)
    return header


class _Reader:
    """Keeps the few elements that matter while expat walks through the XML.

    A document type is refused: without one there are no entities to expand, and none that name other files.
    """

    def __init__(self, header: XisfHeader) -> None:
        self._header = header
        self._open: list[str] = []
        self._image: XisfImage | None = None
        self._property: str | None = None
        self._property_text: list[str] = []
        self._pixel_text: list[str] = []
        self._foreign = ""

    def parse(self, path: str) -> None:
        # XISF headers are UTF-8; some writers declare it by names expat does not know ("utf8").
        parser = expat.ParserCreate("UTF-8")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            # Some writers count the zeros that pad the header to the first block.
            parser.Parse(self._header.xml.rstrip(b"\0"), True)
        except (expat.ExpatError, ValueError) as failure:
            raise UnusableFile(path, f"broken header: {failure}; write the file again") from failure
        if self._foreign:
            raise UnusableFile(path, f"broken header: {self._foreign}; write the file again")

    def _refuse(self, *_: object) -> None:
        raise ValueError("it has a document type declaration, which XISF does not know")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        depth = len(self._open)
        parent = self._open[-1] if depth else ""
        self._open.append(name)
        if depth == 0 and name != "xisf":
            self._foreign = f"the XML is {name!r}, not 'xisf'"
        if name == "Image" and depth == 1:
            self._image = XisfImage(attributes)
            self._pixel_text = []
            self._header.images.append(self._image)
        elif name == "Property" and parent in ("Image", "Metadata", "xisf"):
            self._property = attributes.get("id", "")
            self._property_text = [attributes["value"]] if "value" in attributes else []
        elif self._image is not None and parent == "Image" and depth == 2:
            if name == "FITSKeyword":
                self._image.keywords.append(
                    (attributes.get("name", ""), attributes.get("value", ""), attributes.get("comment", ""))
                )
            elif name == "ColorFilterArray":
                self._image.filters = attributes
            elif name == "Data":
                self._image.data = attributes
                self._pixel_text = []

    def _characters(self, text: str) -> None:
        if self._open[-1] == "Property" and self._property is not None:
            self._property_text.append(text)
        elif self._image is not None and self._open[-1] in ("Image", "Data"):
            self._pixel_text.append(text)

    def _end(self, _: str) -> None:
        name = self._open.pop()
        if name == "Property" and self._property is not None:
            place = self._header.properties if self._image is None else self._image.properties
            place.setdefault(self._property, "".join(self._property_text).strip())
            self._property = None
        elif name == "Image" and len(self._open) == 1 and self._image is not None:
            self._image.text = "".join(self._pixel_text)
            self._image = None
