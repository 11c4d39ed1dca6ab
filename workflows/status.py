"""How far a project is, read from its store alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from skyloom.ops.errors import DataError
from skyloom.workflows.evaluate import is_session
from skyloom.workflows.plan import left_out
from skyloom.workflows.store import Store


def open_project(project: Path) -> Store:
    """Store of an existing project.

    Raises
    ------
    DataError
        If there is none.
    """
    store = Store(project)
    if not store.exists:
        raise DataError(
            f"{project} is no project (it has no {store.root.name}); make one with skyloom run -o {project}"
        )
    return store


def project_status(project: Path) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """State of every node of a project, and the frames left out with their reasons.

    Returns
    -------
    nodes
        One mapping a node: node, key, complete, done (units), reused (of them, taken over from an
        earlier result), seconds, bytes.
    left_out
        (frame, reason).

    Raises
    ------
    DataError
        If the folder is no project.
    """
    store = open_project(project)
    rows = []
    for node in store.nodes():
        for key in store.keys(node):
            meta = store.meta(node, key)
            if meta is None:
                continue
            records = store.journal(node, key).read()
            folder = store.root / node / key
            rows.append(
                {
                    "node": node,
                    "key": key,
                    "op": meta["op"],
                    "complete": bool(meta["complete"]),
                    "done": len(records),
                    "reused": sum(r.reused for r in records.values()),
                    "seconds": round(sum(r.seconds for r in records.values()), 3),
                    "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
                    "started": meta.get("started", math.nan),
                }
            )
    rows.sort(key=lambda r: r["started"])
    return rows, _left_out(store)


def _left_out(store: Store) -> list[tuple[str, str]]:
    complete = [store.open(n) for n in store.nodes() if store.newest(n)]
    # Names come with the tables of frames: those first.
    complete.sort(key=lambda d: not is_session(d))
    return list(left_out((d, True) for d in complete))
