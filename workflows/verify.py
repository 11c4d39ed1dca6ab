"""Whether the store still holds what the journal says was written."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping

import xarray as xr

from skyloom.ops.registry import get_op
from skyloom.workflows.evaluate import Step
from skyloom.workflows.journal import UnitRecord
from skyloom.workflows.layout import Layout
from skyloom.workflows.machine import count
from skyloom.workflows.store import Store, UnitWriter, disk_errors
from skyloom.workflows.stored import DamagedResult

RECENT_SECONDS = 60.0
"""On resume, units journaled this long before the last one are read back: their pixels may not have reached
the disk when the power went."""

Records = dict[tuple[int, ...], UnitRecord]


def verified(store: Store, name: str, key: str, writer: UnitWriter, *, all_of_them: bool) -> tuple[Records, int]:
    """Journaled units, less those whose pixels are not what was written.

    Parameters
    ----------
    store, name, key
        Whose journal.
    writer
        Reads units back.
    all_of_them
        True: every unit is read back, as damage was found; False: only those the last stop may have cost.

    Returns
    -------
    records
        Units that are well.
    lost
        How many are not; the journal has them no longer.
    """
    journal = store.journal(name, key)
    records, voided = journal.replay()
    found = _unjournaled(writer, {*records, *voided})
    if found:
        with journal.writing():
            journal.append(found.values())
    looked_at = list(records) if all_of_them else recent(records)
    lost = [u for u in looked_at if writer.read_checksum(u) != records[u].checksum]
    with disk_errors(f"node {name!r}, project {store.project}"):
        journal.void(lost, "not what was written")
        if all_of_them:
            store.trust(name, key)
    for unit in lost:
        del records[unit]
    return records | found, len(lost)


def _unjournaled(writer: UnitWriter, known: Container[tuple[int, ...]]) -> Records:
    """Units that lie in an object store whole, whose lines were lost with the run that had kept them back.

    Of those the journal has taken back none is found so: what they were made from may be wrong.
    """
    found: Records = {}
    for unit, block in writer.noted(u for u in writer.layout.units() if u not in known):
        try:
            note = json.loads(block.note())
            checksum, key = int(note["checksum"]), str(note["key"])
            finished = block.stat().st_mtime
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue  # the run was stopped in the middle of it
        if writer.read_checksum(unit) == checksum:
            found[unit] = UnitRecord(unit, checksum, 0.0, finished, key)
    return found


def recent(records: Mapping[tuple[int, ...], UnitRecord]) -> list[tuple[int, ...]]:
    """Units that were finished in the last minute before the end of a journal.

    The clock may have been set in between, so time is added up from line to line: never backwards, and never more
    than the later unit took, which was begun when an earlier one was done.
    """
    found: list[tuple[int, ...]] = []
    passed, later = 0.0, None
    for record in reversed(list(records.values())):
        if later is not None:
            passed += min(max(later.finished - record.finished, 0.0), later.seconds)
        if passed > RECENT_SECONDS:
            break
        found.append(record.unit)
        later = record
    return found


def lost_units(store: Store, step: Step) -> int:
    """Units of a complete result that are in its journal and not in the store.

    A block that is not there reads as "no data" without a sign. Looking whether it is there is cheap; where it is
    not, its checksum tells whether it should be.
    """
    if step.dataset is None or step.node.op.table:
        return 0
    return _not_as_written(store, step.node.name, step.key, step.dataset, step.node.op.unit, all_of_them=False)


def check_results(store: Store) -> list[str]:
    """Read all complete results of a project back; what is damaged is mended by its next run.

    Returns
    -------
    list of str
        A line a result that is damaged, else one that says that all are well.
    """
    lines, units = [], 0
    for node in store.nodes():
        for key in store.keys(node):
            name = store.op(node)
            if not store.is_complete(node, key) or name is None:
                continue
            try:
                op = get_op(name)
                units += len(store.journal(node, key).read())
                lost = (
                    0
                    if op.table
                    else _not_as_written(store, node, key, store.open(node, key), op.unit, all_of_them=True)
                )
                if not lost:
                    continue
                what = f"{count(lost, 'task')} not as written"
            except DamagedResult as damaged:
                what = damaged.reason
            store.mark_suspect(node, key)
            lines.append(f"{node}: damaged ({what}); run the workflow again, what is damaged is computed again")
    return lines or [f"all results are as they were written ({count(units, 'task')} read back)"]


def _not_as_written(
    store: Store, node: str, key: str, dataset: xr.Dataset, unit: tuple[str, ...], *, all_of_them: bool
) -> int:
    records, order = store.journal(node, key).read(), store.order(node, key)
    if not records or not order:
        return 0
    # A Dataset that was opened has its coordinates last.
    layout = Layout.of(dataset, unit, node=node).ordered(order)
    writer = UnitWriter(str(store.root), f"{node}/{key}", node, layout)
    known = [u for u in records if len(u) == len(layout.unit_dims)]
    looked_at = known if all_of_them else writer.absent(known)
    return sum(writer.read_checksum(u) != records[u].checksum for u in looked_at)
