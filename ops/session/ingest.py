"""Ingest: files and folders to a session, the table of frames every later stage starts from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr
from astropy.io.fits import Header
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.registry import Param, register
from skyloom.ops.session.describe import describe
from skyloom.ops.session.fact import Fact
from skyloom.ops.session.facts import read_facts
from skyloom.ops.session.fields import COLUMNS
from skyloom.ops.session.files import FilePath, find, short_names
from skyloom.ops.session.header_wcs import celestial_wcs
from skyloom.ops.session.overrule import Rule, read_rules, stated
from skyloom.ops.session.pixels import frame_pixels
from skyloom.ops.session.templates import Template, read_templates

__all__ = ["describe", "frame_pixels", "ingest", "open_session"]

READERS = 8
"""Threads that read headers: on a disk or a network the waiting overlaps."""
AHEAD = 16 * READERS
"""Files whose headers are held at a time: 40 KiB each, part of which the allocator would keep."""
TAKEN = ("light", "unknown")

_NO_HEADER = Header()


@dataclass(frozen=True)
class _Frame:
    """A usable frame."""

    path: FilePath
    name: str
    file: FrameFile
    """Without its headers: what they say is in `facts` and `wcs`."""
    facts: dict[str, Fact]
    wcs: str
    notes: tuple[str, ...]


@register(version=2, unit=())
def ingest(
    files: str | Path | Sequence[str | Path],
    *,
    bands: Annotated[list[str] | None, Param()] = None,
    take: Literal["lights", "all"] = "lights",
    patterns: list[str] | None = None,
    overrule: list[dict[str, Any]] | None = None,
) -> xr.Dataset:
    """List the frames of files and folders: what each is, where it points, how its pixels are read.

    Headers only, no pixels. A file that cannot be used is left out with its reason. What is known of a frame comes
    from `overrule`, else its header, else `patterns`, else the names of its file and folders.

    Parameters
    ----------
    files
        Files of frames, in any format skyloom reads, and folders, which are searched with all their subfolders;
        or addresses in an object store (s3://bucket/night/).
    bands
        Bands (or filters) of lights to take, as the session names them; none = all. Change it to stack some of the
        filters of a folder.
    take
        lights = light frames and those that do not say what they are; all = calibration frames too. Change it to
        all in workflows that calibrate; the presets that begin with raw frames have it.
    patterns
        How names are made, such as "{object}_{kind}_{band}_{exposure}s_{temperature}C" (* = anything; slashes for
        folders): read where a header is silent. Change it where headers say too little and names say it.
    overrule
        What frames are whatever their headers say: a list of {match: pattern of paths, fact: value, …}, such as
        {match: "*/flats/*", kind: flat, band: Ha}. Change it where headers are wrong.

    Returns
    -------
    xarray.Dataset
        Dims (frame), sorted by name. Coordinate `frame` = content id. Variables `name`, `source` (for
        `open_source`), `height`, `width` (px), `wcs` (header text, "" when there is none to trust); then the facts
        `kind`, `master`, `band`, `filter`, `exposure` (s), `gain` (e-/DN), `saturation` (units of the pixels),
        `units`, `date` (ISO, UTC), `camera`, `temperature` (°C), `gain_setting`, `offset_setting`, `binning`
        ("1x1"), `bayer` (colours of the first two stored rows, "" mono), `rotation` (deg), `night` (date of the
        local noon before), `ra`, `dec` (deg), `pedestal` (added to the pixels), `read_noise` (e-), `trim`,
        `overscan` (FITS sections), `telescope`, `pixel_size` (µm), `focal_length` (mm); and `facts` (JSON {fact:
        [value, origin]}). Unknown numbers are NaN, unknown texts "". Attributes: `left_out` = JSON [[name,
        reason], …], `notes` = JSON list of what was odd about `patterns` and `overrule`.

    Raises
    ------
    ConfigError
        If a pattern or a rule makes no sense.
    DataError
        If a path does not exist, or no frame is left; the message has the first reasons.

    Notes
    -----
    The content id is a digest of size, headers and samples of the data: a frame keeps it when its file is renamed
    or moved, and of equal files only the first by name is taken.
    """
    templates, rules = read_templates(patterns or ()), read_rules(overrule or ())
    paths, left_out = find(files)
    names = short_names(paths)
    found: list[_Frame] = []
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(paths), AHEAD):
            some = paths[start : start + AHEAD]
            # WCS are made in this one thread: they hold the interpreter lock, filters of warnings are global.
            for path, outcome in zip(some, pool.map(_try_examine, some), strict=True):
                if isinstance(outcome, UnusableFile):
                    left_out.append((names[path], outcome.reason))
                else:
                    found += [_frame(path, names[path], file, templates, rules) for file in outcome]
    frames = []
    for frame in _unique(sorted(found, key=lambda f: (f.name, str(f.path))), left_out):
        reason = _unwanted(frame, bands, take)
        if reason:
            left_out.append((frame.name, reason))
        else:
            frames.append(frame)
    left_out.sort()
    if not frames:
        raise DataError(_nothing(left_out))
    return _table(frames, left_out, _unused(paths, found, templates, rules))


def open_session(files: str | Path | Sequence[str | Path]) -> xr.Dataset:
    """Session of all frames, of every kind, in files and folders (see `ingest`)."""
    return ingest(files, take="all")


# --- examining ---


def _try_examine(path: FilePath) -> list[FrameFile] | UnusableFile:
    try:
        return examine(str(path))
    except UnusableFile as failure:
        return failure


def _frame(path: FilePath, name: str, file: FrameFile, templates: list[Template], rules: list[Rule]) -> _Frame:
    facts, odd = read_facts(
        file.header,
        path.as_posix(),
        bitpix=file.bitpix,
        bzero=file.bzero,
        shape=file.source.shape,
        plane=file.band,
        user=stated(rules, path.as_posix(), file.part) if rules else None,
        templates=templates,
    )
    wcs, notes = celestial_wcs(file.wcs_header, file.source.shape, file.tables)
    if min(file.source.shape) < 16:
        notes.append(f"only {file.source.shape[1]} x {file.source.shape[0]} pixels")
    name = f"{name} [{file.part}]" if file.part else name
    bare = replace(file, header=_NO_HEADER, wcs_header=_NO_HEADER, tables=None)
    return _Frame(path, name, bare, facts, wcs, (*file.notes, *odd, *notes))


def _unique(frames: Sequence[_Frame], left_out: list[tuple[str, str]]) -> Iterator[_Frame]:
    """Frames whose content has not been seen before."""
    # A compressed and a plain copy of a file share the header; only then is it worth decompressing to see.
    codecs: dict[str, set[str]] = {}
    for frame in frames:
        codecs.setdefault(frame.file.header_digest, set()).add(frame.file.codec)
    seen: dict[str, str] = {}
    for frame in frames:
        contents = [frame.file.content]
        if len(codecs[frame.file.header_digest]) > 1:
            with suppress(DataError):
                contents.append(frame.file.plain_content())
        twin = next((seen[c] for c in contents if c in seen), None)
        if twin is not None:
            left_out.append((frame.name, f"same content as {twin}"))
            continue
        seen.update(dict.fromkeys(contents, frame.name))
        yield frame


def _unwanted(frame: _Frame, bands: list[str] | None, take: str) -> str:
    """Reason to leave a usable frame out; "" to take it."""
    kind = str(frame.facts["kind"].value)
    if "product" in frame.facts:
        return (
            f"a {frame.facts['product'].value} ({frame.facts['product'].origin}): a frame's companion, not a frame"
        )
    if take == "lights" and kind not in TAKEN:
        master = "master " if frame.facts["master"].value else ""
        origin = frame.facts["kind"].origin
        return (
            f"a {master}{kind} ({origin}): only calibrated lights are taken here; the preset 'raw' calibrates them"
        )
    band, name = str(frame.facts["band"].value), str(frame.facts["filter"].value)
    if bands is not None and kind in TAKEN and band not in bands and (not name or name not in bands):
        return f"band {band}: not among {', '.join(bands)}"
    return ""


def _nothing(left_out: Sequence[tuple[str, str]]) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
    more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    return f"no frame to use, {len(left_out)} left out ({shown}{more})"


def _unused(
    paths: Sequence[FilePath], found: Sequence[_Frame], templates: Sequence[Template], rules: Sequence[Rule]
) -> list[str]:
    """Patterns and rules that fit no file: most likely misspelt."""
    names = [p.as_posix() for p in paths]
    parts = [(f.path.as_posix(), f.file.part) for f in found]
    notes = [
        f"overrule {rule.pattern!r} matches none of the {len(names)} files"
        for rule in rules
        if not any(rule.matches(*p) for p in parts)
    ]
    return notes + [
        f"pattern {template.text!r} fits none of the {len(names)} names"
        for template in templates
        if not any(template.facts(name) for name in names)
    ]


# --- the table ---


def _texts(values: Iterable[object]) -> NDArray[np.str_]:
    return np.array([str(v) for v in values], dtype=np.str_)


def _column(values: list[Any]) -> NDArray[Any]:
    if isinstance(values[0], bool):
        return np.array(values, dtype=np.bool_)
    return np.array(values, dtype=np.float64) if isinstance(values[0], float) else _texts(values)


def _table(frames: Sequence[_Frame], left_out: Sequence[tuple[str, str]], notes: list[str]) -> xr.Dataset:
    sources = [f.file.source for f in frames]
    columns: dict[str, NDArray[Any]] = {
        "name": _texts(f.name for f in frames),
        "source": _texts(s.spec() for s in sources),
        "height": np.array([s.shape[0] for s in sources], dtype=np.int64),
        "width": np.array([s.shape[1] for s in sources], dtype=np.int64),
        "wcs": _texts(f.wcs for f in frames),
        **{field.name: _column([f.facts[field.name].value for f in frames]) for field in COLUMNS},
        "facts": _texts(_facts_text(f) for f in frames),
    }
    return xr.Dataset(
        {name: ("frame", values) for name, values in columns.items()},
        coords={"frame": _texts(f.file.content for f in frames)},
        attrs={"left_out": json.dumps([list(item) for item in left_out]), "notes": json.dumps(notes)},
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
