"""A canvas somebody gives: as header text, as a FITS or XISF image, as a file with a header alone."""

from __future__ import annotations

from pathlib import Path

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.formats.examine import HEAD_BYTES, TIFF, XISF, examine, format_of
from skyloom.ops.formats.fits_header import CARD, Header
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.grid import Grid, parse_wcs, wcs_header
from skyloom.ops.session.header_wcs import celestial_wcs

AUTO, KEEP = "auto", "keep"
"""Words that stand for a canvas: chosen from the frames; that of the project's last run."""

MAX_HEADER_BYTES = 1_000_000
_SHAPE_KEYWORDS = (("NAXIS2", "NAXIS1"), ("ZNAXIS2", "ZNAXIS1"), ("IMAGEH", "IMAGEW"))
"""Of images, of compressed images, of the headers astrometry.net writes."""


def is_header_text(value: str) -> bool:
    """Whether a text is a canvas itself, not the name of a file that holds one."""
    return "\n" in value.strip() or "CRVAL1" in value


def canvas_text(grid: Grid) -> str:
    """Header text of a canvas: what `read_canvas` takes, and all that tells it from another one but its tiles."""
    cards = [f"NAXIS1  = {grid.shape[1]}", f"NAXIS2  = {grid.shape[0]}"]
    # Comments say nothing that keywords do not, and a key should not depend on them.
    cards += [line.partition(" / ")[0].rstrip() for line in grid.header.split("\n")]
    return "\n".join(cards)


def read_canvas(value: str, *, tile: int) -> Grid:
    """Canvas of a header text, or of the file of that name.

    Parameters
    ----------
    value
        Header text (FITS cards, a line each, with NAXIS1 and NAXIS2), or the path of a FITS, XISF or TIFF image
        with a WCS, of a text file of such cards, or of a FITS header without data.
    tile
        Side of the tiles (pixels), from pixel (0, 0) on.

    Returns
    -------
    Grid
        WCS in ICRS, shape of the image.

    Raises
    ------
    ConfigError
        If the text has no WCS or no size.
    DataError
        If the file cannot be read or has none.
    """
    if is_header_text(value):
        return _of_header(Header(_cards(value)), "canvas", tile)
    path = Path(value).expanduser()
    if path.is_dir():
        raise DataError(f"canvas = {value}: a folder, neither an image nor a header nor a project that has run")
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except FileNotFoundError:
        raise DataError(
            f"canvas = {value}: no such file; give an image with a WCS, a header, a project, {AUTO} or {KEEP}"
        ) from None
    except OSError as failure:
        raise DataError(f"canvas = {value}: cannot be read: {failure.strerror or failure}") from failure
    origin = f"canvas = {value}"
    if _is_text(head):
        return _of_header(Header(_cards(head.decode("utf-8", "replace"))), origin, tile)
    try:
        frames = examine(path)
    except UnusableFile as problem:
        if head.startswith(b"SIMPLE  ="):
            return _of_header(Header(head), origin, tile)
        raise DataError(f"{origin}: {problem.reason}") from None
    failures = []
    for frame in frames:
        rows, columns = frame.source.shape
        text, notes = celestial_wcs(frame.wcs_header, (rows, columns), frame.tables)
        if text:
            # Images of these formats begin at the top; the rows of a canvas count from the bottom.
            top = format_of(head[:HEAD_BYTES], path.suffix.lower()) in (XISF, TIFF)
            return Grid(_turned_over(text, rows) if top else text, (rows, columns), tile)
        failures += notes
    raise DataError(f"{origin}: {failures[0] if failures else 'the image has no WCS'}")


def _turned_over(header: str, rows: int) -> str:
    """WCS of the same image with its rows in the opposite order."""
    wcs = parse_wcs(header).deepcopy()
    if wcs.has_distortion:
        return header
    wcs.wcs.crpix = [wcs.wcs.crpix[0], rows + 1 - wcs.wcs.crpix[1]]
    if wcs.wcs.has_cd():
        wcs.wcs.cd = wcs.wcs.cd * [[1, -1], [1, -1]]
    else:
        wcs.wcs.pc = wcs.wcs.get_pc() * [[1, -1], [-1, 1]]
        wcs.wcs.cdelt = wcs.wcs.cdelt * [1, -1]
    return wcs_header(wcs)


def _is_text(head: bytes) -> bool:
    """Cards in lines; those of a FITS file follow each other without an end of line."""
    first, newline, _ = head.partition(b"\n")
    return bool(newline) and len(first) < 2 * CARD and b"\0" not in head[:CARD] and b"<" not in head[:CARD]


def _cards(text: str) -> bytes:
    lines = [line.rstrip("\r").expandtabs() for line in text.split("\n")]
    return "".join(_card(line) for line in lines if line.strip()).encode("latin-1", "replace")


def _card(line: str) -> str:
    """A card in fixed columns of a line such as `CRVAL1 = 10.5`."""
    keyword, equals, value = line.partition("=")
    if equals and len(keyword.strip()) <= 8 and " " not in keyword.strip():
        line = f"{keyword.strip():<8}= {value.strip()}"
    return line[:CARD].ljust(CARD)


def _of_header(header: Header, origin: str, tile: int) -> Grid:
    for pair in _SHAPE_KEYWORDS:
        sizes = [header.value(keyword, None) for keyword in pair]
        if all(isinstance(n, int) and n > 0 for n in sizes):
            break
    else:
        raise ConfigError(f"{origin}: the header has no size; it needs NAXIS1 and NAXIS2 (pixels)")
    shape = int(sizes[0]), int(sizes[1])  # type: ignore[arg-type]  # checked just above
    text, notes = celestial_wcs(header, shape)
    if not text:
        raise ConfigError(f"{origin}: {notes[0] if notes else 'the header has no WCS (CTYPE1, CRVAL1, …)'}")
    return Grid(text, shape, tile)
