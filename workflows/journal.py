"""What has been done: one line a finished unit, appended only after its pixels are written."""

from __future__ import annotations

import json
import os
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
                )
            except (ValueError, KeyError, TypeError):
                continue
            records[record.unit] = record
        return records

    def append(self, record: UnitRecord) -> None:
        """Add a record and see it to the disk.

        The line starts with a newline if a crash tore the last one, so that only the torn line is lost.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            lead = b""
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                lead = b"" if file.read(1) == b"\n" else b"\n"
            file.write(lead + json.dumps(asdict(record)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget everything (the result it speaks of is gone)."""
        self.path.unlink(missing_ok=True)
