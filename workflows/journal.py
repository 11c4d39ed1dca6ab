"""What has been done: one line a finished unit, appended only after its pixels are written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class UnitRecord:
    """One finished unit of a node."""

    unit: tuple[int, ...]
    checksum: int
    """crc32 over the unit's arrays, to recognise a write that did not reach the disk."""
    seconds: float
    finished: float
    """Seconds since the epoch, by the clock of the machine that did it: for people, nothing hangs on it."""
    key: str = ""
    """What the unit depends on; a later result takes over the units whose key it shares. "" = never."""
    reused: bool = False
    """Whether it was taken over from an earlier result."""
    memory: float = 0.0
    """Bytes of the process that did it, at its peak so far."""
    worker: str = ""
    """Which worker of a cluster did it; "" = the run's own process."""


class Journal:
    """Append-only file of the finished units of one node's result, as JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[tuple[int, ...], UnitRecord]:
        """Finished units in the order they were finished; a line torn by a crash is ignored."""
        records: dict[tuple[int, ...], UnitRecord] = {}
        if not self.path.exists():
            return records
        for line in self.path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                unit = tuple(int(i) for i in entry["unit"])
                # The last word on a unit counts, and stands where it was said.
                if entry.get("void"):
                    records.pop(unit, None)
                    continue
                record = UnitRecord(
                    unit,
                    int(entry["checksum"]),
                    float(entry["seconds"]),
                    float(entry["finished"]),
                    str(entry.get("key", "")),
                    bool(entry.get("reused", False)),
                    float(entry.get("memory", 0.0)),
                    str(entry.get("worker", "")),
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            records.pop(unit, None)
            records[unit] = record
        return records

    def append(self, records: Iterable[UnitRecord]) -> None:
        """Add records and see them to the disk."""
        append_lines(self.path, (asdict(record) for record in records), durable=True)

    def void(self, units: Iterable[tuple[int, ...]], reason: str) -> None:
        """Take units back: what the store holds of them is not to be used."""
        append_lines(self.path, ({"unit": unit, "void": True, "reason": reason} for unit in units), durable=True)

    def remove(self) -> None:
        """Forget everything (the result it speaks of is gone)."""
        self.path.unlink(missing_ok=True)


def append_lines(path: Path, entries: Iterable[dict[str, Any]], *, durable: bool) -> None:
    """Append entries as lines of JSON.

    They start with a newline if a crash tore the last line, so that only the torn line is lost.

    Parameters
    ----------
    path
        File; made with its folder if it is not there.
    entries
        What to add.
    durable
        See them to the disk before this returns.
    """
    lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        lead = b""
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            lead = b"" if file.read(1) == b"\n" else b"\n"
        file.write(lead + lines)
        file.flush()
        if durable:
            os.fsync(file.fileno())
