"""What has been done: one line a finished unit, appended only after its pixels are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from skyloom.workflows.lines import lines_of
from skyloom.workflows.places import Place


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
    """Finished units of one node's result as JSON lines, which are only ever added to.

    In an object store lines are kept back for some seconds; `writing` sees to it that none is forgotten.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self._lines = lines_of(path)

    def read(self) -> dict[tuple[int, ...], UnitRecord]:
        """Finished units in the order they were finished; a line torn by a crash is ignored."""
        return self.replay()[0]

    def replay(self) -> tuple[dict[tuple[int, ...], UnitRecord], set[tuple[int, ...]]]:
        """Finished units as `read` has them, and those that were taken back and not finished since."""
        records: dict[tuple[int, ...], UnitRecord] = {}
        voided: set[tuple[int, ...]] = set()
        for line in self._lines.read().splitlines():
            try:
                entry = json.loads(line)
                unit = tuple(int(i) for i in entry["unit"])
                # The last word on a unit counts, and stands where it was said.
                if entry.get("void"):
                    records.pop(unit, None)
                    voided.add(unit)
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
            voided.discard(unit)
            records[unit] = record
        return records, voided

    def append(self, records: Iterable[UnitRecord]) -> None:
        """Add records and see them to the disk."""
        self._lines.append((asdict(record) for record in records), durable=True)

    def void(self, units: Iterable[tuple[int, ...]], reason: str) -> None:
        """Take units back: what the store holds of them is not to be used."""
        self._lines.append(({"unit": unit, "void": True, "reason": reason} for unit in units), durable=True)
        self._lines.flush()

    def remove(self) -> None:
        """Forget everything (the result it speaks of is gone)."""
        self._lines.remove()

    @property
    def size(self) -> int:
        """Bytes, which grow as it does."""
        return self._lines.size()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See to it that what is appended inside is kept, whatever ends it."""
        with self._lines.writing():
            yield
