"""Ingest: files and folders to a session, the table of frames every later stage starts from."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits import FrameFile, UnusableFile, examine, plain_content
from skyloom.ops.frames import open_source
from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.registry import Param, register
from skyloom.ops.session.facts import Fact, quantity, read_facts
from skyloom.ops.session.header_wcs import celestial_wcs

SUFFIXES = (".fit", ".fits", ".fts", ".fz", ".gz", ".bz2", ".z")
"""Ends of the names of files a folder is searched for (any case)."""
UNREAD_SUFFIXES = (
    *(".xisf", ".tif", ".tiff", ".ser"),
    *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".raf", ".rw2", ".orf", ".dng", ".pef", ".kdc"),
    *(".zip", ".7z", ".rar", ".xz", ".zst"),
)
"""Images and archives a folder may hold that this version does not read: reported, not passed over."""
READERS = 8
"""Threads that read headers: on a disk or a network the waiting overlaps."""
BLOCK_BYTES = 2**24
"""Size of the blocks of `frame_pixels` (bytes of float32)."""
TAKEN = ("light", "unknown")


@dataclass(frozen=True)
class _Frame:
    """A usable file."""

    path: Path
    file: FrameFile
    facts: dict[str, Fact]
    wcs: str
    notes: tuple[str, ...]


@register(version=1, unit=())
def ingest(
    files: str | Path | Sequence[str | Path],
    *,
    bands: Annotated[list[str] | None, Param()] = None,
    take: Literal["lights", "all"] = "lights",
) -> xr.Dataset:
    """List the frames of files and folders: what each is, where it points, how its pixels are read.

    Headers only, no pixels. A file that cannot be used is left out with its reason.

    Parameters
    ----------
    files
        FITS files (plain, tile-compressed, gzip or bzip2, whatever their names) and folders, which are searched
        with all their subfolders.
    bands
        Filters to take, as the session names them; none = all.
    take
        lights = light frames and those that do not say what they are; all = calibration frames too.

    Returns
    -------
    xarray.Dataset
        Dims (frame), sorted by name. Coordinate `frame` = content id. Variables `name`, `source` (for
        `open_source`), `height`, `width` (px), `wcs` (header text, "" when there is none to trust), `kind`,
        `band`, `exposure` (s), `gain` (e-/DN), `saturation` (units of the pixels), `units`, `date` (ISO, UTC),
        `camera`, `facts` (JSON {fact: [value, origin]}). Attribute `left_out` = JSON [[name, reason], …].

    Raises
    ------
    DataError
        If a path does not exist, or no frame is left; the message has the first reasons.

    Notes
    -----
    The content id is a digest of size, headers and samples of the data: a frame keeps it when its file is renamed
    or moved, and of equal files only the first by name is taken.
    """
    paths, left_out = _find(files)
    names = _short_names(paths)
    found: list[tuple[str, _Frame]] = []
    with ThreadPoolExecutor(READERS) as pool:
        examined = pool.map(_try_examine, paths)
        # The WCS is made in this one thread: it holds the interpreter lock, and filters of warnings are global.
        for path, outcome in zip(paths, examined, strict=True):
            if isinstance(outcome, UnusableFile):
                left_out.append((names[path], outcome.reason))
            else:
                found.append((names[path], _frame(path, outcome)))
    frames = []
    for name, frame in _unique(sorted(found, key=lambda item: (item[0], str(item[1].path))), left_out):
        reason = _unwanted(frame, bands, take)
        if reason:
            left_out.append((name, reason))
        else:
            frames.append((name, frame))
    left_out.sort()
    if not frames:
        raise DataError(_nothing(left_out))
    return _table(frames, left_out)


def open_session(files: str | Path | Sequence[str | Path]) -> xr.Dataset:
    """Session of all frames, of every kind, in files and folders (see `ingest`)."""
    return ingest(files, take="all")


# --- finding ---


def _find(files: str | Path | Sequence[str | Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Files, each once, sorted by path; and what the folders hold beside that."""
    given = [Path(files)] if isinstance(files, str | Path) else [Path(f) for f in files]
    if not given:
        raise DataError("no files given; name FITS files or folders that hold them")
    paths: dict[Path, None] = {}
    left_out = []
    for path in given:
        if path.is_dir():
            inside = sorted(_walk(path))
            paths.update(dict.fromkeys(p for p in inside if p.suffix.lower() in SUFFIXES))
            left_out += [
                (p.name, f"{p.suffix.lower()} files are not read in this version; save it as FITS")
                for p in inside
                if p.suffix.lower() in UNREAD_SUFFIXES
            ]
        elif path.exists() or path.is_symlink():
            paths[path.absolute()] = None
        else:
            raise DataError(f"{path}: there is no such file or folder")
    if not paths:
        beside = Counter(reason for _, reason in left_out)
        what = ", ".join(f"{n} {reason.split(' ')[0]}" for reason, n in sorted(beside.items()))
        raise DataError(
            f"no FITS files in {', '.join(map(str, given[:3]))}"
            + (f" (there are: {what}, not read in this version)" if what else "")
            + f"; names end in {', '.join(SUFFIXES[:-1])}"
        )
    return sorted(paths), left_out


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder. Hidden ones (macOS leaves `._x.fits` beside x.fits) and zarr stores are none."""
    for base, folders, names in os.walk(folder.absolute()):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not f.endswith(".zarr"))
        for name in names:
            if not name.startswith("."):
                yield Path(base, name)


def _short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """File names with as many parent folders as makes them differ."""
    names: dict[Path, str] = {}
    waiting, depth = list(paths), 1
    while waiting:
        short = {p: "/".join(p.parts[-depth:]) for p in waiting}
        count = Counter(short.values())
        done = {p: s for p, s in short.items() if count[s] == 1 or depth >= len(p.parts)}
        names.update(done)
        waiting, depth = [p for p in waiting if p not in done], depth + 1
    # Bytes that are no UTF-8 travel as lone surrogates, which no store and no terminal takes.
    return {p: n.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for p, n in names.items()}


# --- examining ---


def _try_examine(path: Path) -> FrameFile | UnusableFile:
    try:
        return examine(path)
    except UnusableFile as failure:
        return failure


def _frame(path: Path, file: FrameFile) -> _Frame:
    facts = read_facts(file.header, str(path), bitpix=file.bitpix, bzero=file.bzero)
    wcs, notes = celestial_wcs(file.wcs_header, file.source.shape)
    if "bayer" in facts:
        notes.append(f"colour sensor ({facts['bayer'].value}): pixels are taken as they are")
    if min(file.source.shape) < 16:
        notes.append(f"only {file.source.shape[1]} x {file.source.shape[0]} pixels")
    return _Frame(path, file, facts, wcs, (*file.notes, *notes))


def _unique(frames: Sequence[tuple[str, _Frame]], left_out: list[tuple[str, str]]) -> Iterator[tuple[str, _Frame]]:
    """Frames whose content has not been seen before."""
    # A compressed and a plain copy of a file share the header; only then is it worth decompressing to see.
    codecs: dict[str, set[str]] = {}
    for _, frame in frames:
        codecs.setdefault(frame.file.header_digest, set()).add(frame.file.codec)
    seen: dict[str, str] = {}
    for name, frame in frames:
        contents = [frame.file.content]
        if len(codecs[frame.file.header_digest]) > 1:
            with suppress(DataError):
                contents.append(plain_content(frame.file))
        twin = next((seen[c] for c in contents if c in seen), None)
        if twin is not None:
            left_out.append((name, f"same content as {twin}"))
            continue
        seen.update(dict.fromkeys(contents, name))
        yield name, frame


def _unwanted(frame: _Frame, bands: list[str] | None, take: str) -> str:
    """Reason to leave a usable frame out; "" to take it."""
    kind = str(frame.facts["kind"].value)
    if "product" in frame.facts:
        return (
            f"a {frame.facts['product'].value} ({frame.facts['product'].origin}): a frame's companion, not a frame"
        )
    if take == "lights" and kind not in TAKEN:
        master = "master " if "master" in frame.facts else ""
        origin = frame.facts["kind"].origin
        return f"a {master}{kind} ({origin}): masters and calibration come with linking, not in this version"
    band = str(frame.facts["band"].value)
    if bands is not None and kind in TAKEN and band not in bands:
        return f"band {band}: not among {', '.join(bands)}"
    return ""


def _nothing(left_out: Sequence[tuple[str, str]]) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return f"no frame to use, {len(left_out)} left out ({shown}{more})"


# --- the table ---


def _table(frames: Sequence[tuple[str, _Frame]], left_out: Sequence[tuple[str, str]]) -> xr.Dataset:
    def texts(values: Iterable[object]) -> NDArray[np.str_]:
        return np.array([str(v) for v in values], dtype=np.str_)

    facts = [f.facts for _, f in frames]
    sources = [f.file.source for _, f in frames]
    columns: dict[str, NDArray[Any]] = {
        "name": texts(n for n, _ in frames),
        "source": texts(s.spec() for s in sources),
        "height": np.array([s.shape[0] for s in sources], dtype=np.int64),
        "width": np.array([s.shape[1] for s in sources], dtype=np.int64),
        "wcs": texts(f.wcs for _, f in frames),
        **{key: texts(f[key].value for f in facts) for key in ("kind", "band", "units", "date", "camera")},
        **{
            key: np.array([quantity(f[key]) for f in facts], dtype=np.float64)
            for key in ("exposure", "gain", "saturation")
        },
        "facts": texts(_facts_text(f) for _, f in frames),
    }
    return xr.Dataset(
        {name: ("frame", values) for name, values in columns.items()},
        coords={"frame": texts(f.file.content for _, f in frames)},
        attrs={"left_out": json.dumps([list(item) for item in left_out])},
    )


def _facts_text(frame: _Frame) -> str:
    """Facts as JSON; NaN, which JSON has not, as null; oddities under "notes"."""
    values: dict[str, list[Any]] = {
        name: [None if isinstance(value, float) and math.isnan(value) else value, origin]
        for name, (value, origin) in sorted(frame.facts.items())
    }
    if frame.notes:
        values["notes"] = [list(frame.notes), "header"]
    return json.dumps(values, ensure_ascii=True)


# --- for people ---


def frame_pixels(session: xr.Dataset, index: int) -> xr.DataArray:
    """Pixels of a frame, read when computed.

    Parameters
    ----------
    session
        As `ingest` returns it.
    index
        Row of the session.

    Returns
    -------
    xarray.DataArray
        float32 (y, x), dask-backed in bands of rows (frames that must be decoded whole: one chunk); NaN = no data;
        attrs `name`, `units`, `band`.
    """
    row = session.isel(frame=index)
    spec = str(row["source"].values)
    height, width = int(row["height"]), int(row["width"])
    band = min(height, max(1, BLOCK_BYTES // (4 * width))) if open_source(spec).windowed else height
    starts = list(range(0, height, band))
    name = f"frame-{dask.base.tokenize(spec, band)}"
    graph = {(name, i, 0): (_read_rows, spec, y, min(y + band, height)) for i, y in enumerate(starts)}
    chunks = (tuple(min(band, height - y) for y in starts), (width,))
    array = da.Array(graph, name, chunks, dtype=np.float32)
    attrs = {key: str(row[key].values) for key in ("name", "units", "band")}
    return xr.DataArray(array, dims=("y", "x"), attrs=attrs, name=attrs["name"])


def _read_rows(spec: str, start: int, stop: int) -> NDArray[np.float32]:
    source = open_source(spec)
    return source.read(slice(start, stop), slice(0, source.shape[1]))


def describe(session: xr.Dataset) -> list[dict[str, Any]]:
    """Rows for people: what each frame is and what is odd about it.

    Returns
    -------
    list of dict
        name, kind, band, exposure (s), size ("width x height"), scale (arcsec/px), ra, dec (degrees, of the
        frame's centre), date, oddities (list of str). None = unknown.
    """
    shapes = Counter(zip(session["width"].values.tolist(), session["height"].values.tolist(), strict=True))
    usual = shapes.most_common(1)[0][0] if shapes else (0, 0)
    rows = []
    for i in range(session.sizes["frame"]):
        row = session.isel(frame=i)
        width, height = int(row["width"]), int(row["height"])
        facts = json.loads(str(row["facts"].values))
        oddities = list(facts.get("notes", [[]])[0])
        text = str(row["wcs"].values)
        scale = ra = dec = None
        if text:
            wcs = parse_wcs(text)
            scale = round(math.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600.0, 5)
            centre = pixel_to_sky(wcs, np.array([(width - 1) / 2]), np.array([(height - 1) / 2]))
            ra, dec = (round(float(c[0]), 5) for c in centre)
        elif not any("WCS" in o for o in oddities):
            oddities.append("no WCS: solve it (ASTAP, astrometry.net) before a mosaic")
        if (width, height) != usual:
            oddities.append(f"size differs from most ({usual[0]} x {usual[1]})")
        exposure = float(row["exposure"])
        rows.append(
            {
                "name": str(row["name"].values),
                "kind": str(row["kind"].values),
                "band": str(row["band"].values),
                "exposure": None if math.isnan(exposure) else exposure,
                "size": f"{width} x {height}",
                "scale": scale,
                "ra": ra,
                "dec": dec,
                "date": str(row["date"].values) or None,
                "oddities": oddities,
            }
        )
    return rows
