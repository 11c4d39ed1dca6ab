"""How far a project is, read from its store; and what it would do with some files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skyloom.configs.loader import parse_workflow
from skyloom.ops.errors import DataError
from skyloom.ops.registry import FILES
from skyloom.workflows import places
from skyloom.workflows.evaluate import is_session
from skyloom.workflows.graph import Workflow
from skyloom.workflows.kept_solution import changes
from skyloom.workflows.places import Place
from skyloom.workflows.plan import left_out, make_plan, session_of
from skyloom.workflows.store import Store


def open_project(project: str | Place) -> Store:
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


def workflow_of(store: Store) -> Workflow:
    """Workflow of a project's last run.

    Raises
    ------
    DataError
        If nothing has run there.
    """
    path = store.project / "workflow.yaml"
    if not path.exists():
        raise DataError(f"{store.project} has not run yet: it has no {path.name}")
    if isinstance(path, Path):
        return Workflow.load(path)
    return Workflow.from_spec(parse_workflow(path.read_text(), origin=str(path)))


def project_status(project: str | Place) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
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
            rows.append(
                {
                    "node": node,
                    "key": key,
                    "op": meta["op"],
                    "complete": bool(meta["complete"]),
                    "done": len(records),
                    "reused": sum(r.reused for r in records.values()),
                    "seconds": round(sum(r.seconds for r in records.values()), 3),
                    "bytes": sum(size for _, size in places.files(store.root / node / key)),
                    "started": meta.get("started", math.nan),
                }
            )
    rows.sort(key=lambda r: r["started"])
    return rows, _left_out(store)


def still_to_do(project: str | Place, files: Sequence[str | Path]) -> list[str]:
    """What the last workflow of a project would do now, with these files, and why.

    Parameters
    ----------
    project
        Its folder.
    files
        Frames or folders.

    Returns
    -------
    list of str
        A line a node that is not as before, and one on the frames that are new or gone.

    Raises
    ------
    DataError
        If the folder is no project, or has not begun to run.
    """
    store = open_project(project)
    workflow = workflow_of(store)
    plan = make_plan(workflow, files, project=project)
    session = session_of(plan.steps)
    told = {note.partition(":")[0] for note in plan.notes}
    lines = []
    for node in plan.nodes:
        op = workflow[node.name].op
        if (
            node.stored
            or not node.units
            or op.table
            or op.sink
            or FILES in workflow[node.name].inputs.values()
            or node.name in told
        ):
            continue
        total = node.units + node.done + node.reused
        why = changes(session, plan.steps[node.name].earlier, store) if session is not None else ""
        lines.append(f"{node.name}: to be made" + (f", {node.units} of {total}" if total > 1 else "") + why)
    lines += plan.notes
    if plan.later:
        lines.append(f"{', '.join(plan.later)}: known when {plan.nodes[-1].name} has run")
    return lines or ["nothing is to be done: all is as these files say"]


def _left_out(store: Store) -> list[tuple[str, str]]:
    complete = [store.open(n) for n in store.nodes() if store.newest(n)]
    # Names come with the tables of frames: those first.
    complete.sort(key=lambda d: not is_session(d))
    return list(left_out((d, True) for d in complete))
