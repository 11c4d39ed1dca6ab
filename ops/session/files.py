"""Finding files: folders searched, names made unique, what is there but not read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from skyloom.ops.errors import DataError
from skyloom.ops.formats.examine import ARCHIVE_SUFFIXES, SUFFIXES
from skyloom.ops.objects import ObjectPath, is_address

FilePath = Path | ObjectPath


def find(files: str | Path | Sequence[str | Path]) -> tuple[list[FilePath], list[tuple[str, str]]]:
    """Files, each once, sorted by path; and what the folders hold beside that, with the reason.

    Raises
    ------
    DataError
        If nothing is given, a path does not exist or there is no file that can hold a frame.
    """
    given = [files] if isinstance(files, str | Path) else list(files)
    if not given:
        raise DataError("no files given; name files of frames or folders that hold them")
    paths: dict[Path, None] = {}
    objects: dict[ObjectPath, None] = {}
    beside = []
    for one in given:
        if is_address(one):
            where = ObjectPath.of(str(one))
            if where.key and not str(one).endswith("/") and where.exists():
                objects[where] = None
                continue
            there = _objects(where)
            objects.update(dict.fromkeys(p for p in there if p.suffix.lower() in SUFFIXES))
            beside += _archives(there)
            continue
        path = Path(one)
        if path.is_dir():
            inside = sorted(_walk(path))
            paths.update(dict.fromkeys(p for p in inside if p.suffix.lower() in SUFFIXES))
            beside += _archives(inside)
        elif path.exists() or path.is_symlink():
            paths[path.absolute()] = None
        else:
            raise DataError(f"{path}: there is no such file or folder")
    if not paths and not objects:
        count = Counter(reason.split(" ")[0] for _, reason in beside)
        what = ", ".join(f"{n} {suffix}" for suffix, n in sorted(count.items()))
        raise DataError(
            f"no frames in {', '.join(map(str, given[:3]))}"
            + (f" (there are: {what}, not read)" if what else "")
            + f"; names of frames end in {', '.join(SUFFIXES)}"
        )
    return [*sorted(paths), *sorted(objects)], beside


def _archives(paths: Sequence[FilePath]) -> list[tuple[str, str]]:
    return [
        (p.name, f"{p.suffix.lower()} files are not read; unpack it or save it as FITS")
        for p in paths
        if p.suffix.lower() in ARCHIVE_SUFFIXES
    ]


def _objects(where: ObjectPath) -> list[ObjectPath]:
    """Objects below an address, but for those that `_walk` would pass over."""
    found = []
    for path, _ in where.listed():
        *folders, name = path.parts[len(where.parts) :]
        if not name.startswith(".") and not any(f.startswith(".") or f.endswith(".zarr") for f in folders):
            found.append(path)
    if not found:
        raise DataError(f"{where}: there is no such object, and none below it")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder. Hidden ones (macOS leaves `._x.fits` beside x.fits) and zarr stores are none."""
    for base, folders, names in os.walk(folder.absolute()):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not f.endswith(".zarr"))
        for name in names:
            if not name.startswith("."):
                yield Path(base, name)


def short_names(paths: Sequence[FilePath]) -> dict[FilePath, str]:
    """File names with as many parent folders as makes them differ."""
    names: dict[FilePath, str] = {}
    waiting, depth = list(paths), 1
    while waiting:
        short = {p: "/".join(p.parts[-depth:]) for p in waiting}
        count = Counter(short.values())
        done = {p: s for p, s in short.items() if count[s] == 1 or depth >= len(p.parts)}
        names.update(done)
        waiting, depth = [p for p in waiting if p not in done], depth + 1
    # Bytes that are no UTF-8 travel as lone surrogates, which no store and no terminal takes.
    return {p: n.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for p, n in names.items()}
