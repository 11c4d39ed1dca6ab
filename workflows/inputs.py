"""Whether the files of a run are still those it began with.

What reads a file's pixels compares its size and time with those it was ingested with, but an op may then leave
the frame out like one that is broken, and a file may be replaced with its time kept. So the run looks for itself,
between nodes and while they run; only where something was done to a file is its content compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from skyloom.ops.errors import DataError
from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.objects import ObjectPath, ObjectState, is_address

READERS = 8
"""Threads that look: on a network the waiting overlaps."""
NAMED = 3
"""Files that are named in a message."""

State = tuple[int, int, int, int] | ObjectState
"""Size, time of the last change of content, of the last change of anything (ns), and number of the file; of an
object size, time and tag, which another content changes."""


@dataclass(frozen=True)
class Input:
    """A file frames are read from."""

    path: str
    size: int
    mtime_ns: int
    contents: frozenset[str]
    """Content ids of its frames."""


class InputChanged(DataError):
    """Files are no longer those the run began with."""

    exit_code = 3


class Inputs:
    """The files of a session, and how they were when they were last seen to be well."""

    def __init__(self, files: Sequence[Input]) -> None:
        self._files = list(files)
        self._states: dict[str, State | None] = {f.path: None for f in self._files}

    @classmethod
    def of(cls, sessions: Sequence[xr.Dataset]) -> Inputs:
        """Files of tables of frames whose sources are plain files."""
        found: dict[str, tuple[int, int, set[str]]] = {}
        for session in sessions:
            for spec, content in zip(
                session["source"].values.tolist(), session["frame"].values.tolist(), strict=True
            ):
                fields = json.loads(spec)
                if "path" in fields and "mtime_ns" in fields:
                    entry = found.setdefault(
                        str(fields["path"]), (int(fields["size"]), int(fields["mtime_ns"]), set())
                    )
                    entry[2].add(content)
        return cls([Input(p, size, time, frozenset(ids)) for p, (size, time, ids) in sorted(found.items())])

    def check(self) -> None:
        """Look at every file.

        Raises
        ------
        InputChanged
            Naming some of those that are gone or others, and what to do.
        """
        with ThreadPoolExecutor(READERS) as pool:
            told = dict(zip((f.path for f in self._files), pool.map(self._look, self._files), strict=True))
        changed = {path: what for path, what in told.items() if what}
        if changed:
            shown = "; ".join(f"{Path(p).name}: {what}" for p, what in list(changed.items())[:NAMED])
            more = f"; and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
            raise InputChanged(
                f"{len(changed)} of {len(told)} files changed while they were used ({shown}{more}); when they are "
                "as they shall be, run the same command again: what does not depend on them is kept"
            )

    def _look(self, file: Input) -> str:
        """What became of a file; "" where it is as it was."""
        facts: os.stat_result | ObjectState
        try:
            if is_address(file.path):
                facts = ObjectPath.of(file.path).stat()
                state: State = facts
            else:
                facts = Path(file.path).stat()
                state = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
        except OSError as failure:
            return f"gone ({failure.strerror})"
        if facts.st_size != file.size:
            return f"{facts.st_size} bytes, it had {file.size}"
        touched = facts.st_mtime_ns != file.mtime_ns
        if not touched and state == self._states[file.path]:
            return ""
        if touched or self._states[file.path] is not None:
            try:
                same = file.contents <= {frame.content for frame in examine(file.path)}
            except UnusableFile as broken:
                return f"broken ({broken.reason})"
            if not same:
                return "other content"
            if touched:
                # Its readers refuse it.
                return "its time of change is another, its content the same"
        self._states[file.path] = state
        return ""


def inputs_of(datasets: Mapping[str, xr.Dataset | None]) -> Inputs:
    """Files of the tables of frames among some results."""
    tables = [d for d in datasets.values() if d is not None and "source" in d and "frame" in d.dims]
    return Inputs.of(tables)
