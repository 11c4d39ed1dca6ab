"""What has been done: one line a finished unit, appended only after its pixels are written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class UnitRecord:
    """One finished unit of a node."""

    unit: tuple[int, ...]
    checksum: int
    """crc32 over the unit's arrays, to recognise a write that did not reach the disk."""
    seconds: float
    finished: float
    """Seconds since the epoch."""
    key: str = ""
    """What the unit depends on; a later result takes over the units whose key it shares. "" = never."""
    reused: bool = False
    """Whether it was taken over from an earlier result."""


class Journal:
    """Append-only file of the finished units of one node's result."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[tuple[int, ...], UnitRecord]:
        """Finished units; a line torn by a crash is ignored."""
        records: dict[tuple[int, ...], UnitRecord] = {}
        if not self.path.exists():
            return records
        for line in self.path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                record = UnitRecord(
                    tuple(int(i) for i in entry["unit"]),
                    int(entry["checksum"]),
                    float(entry["seconds"]),
                    float(entry["finished"]),
                    str(entry.get("key", "")),
                    bool(entry.get("reused", False)),
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            records[record.unit] = record
        return records

    def append(self, records: Iterable[UnitRecord]) -> None:
        """Add records and see them to the disk.

        They start with a newline if a crash tore the last line, so that only the torn line is lost.
        """
        lines = b"".join(json.dumps(asdict(record)).encode() + b"\n" for record in records)
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            lead = b""
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                lead = b"" if file.read(1) == b"\n" else b"\n"
            file.write(lead + lines)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget everything (the result it speaks of is gone)."""
        self.path.unlink(missing_ok=True)
