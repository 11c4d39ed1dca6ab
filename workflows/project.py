"""A project as Python sees it: the results of its nodes as Datasets, what they cost, which frames went in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import xarray as xr

from skyloom.ops.registry import suggest
from skyloom.workflows import notebook
from skyloom.workflows.graph import Workflow
from skyloom.workflows.machine import count
from skyloom.workflows.places import Place, files, place
from skyloom.workflows.status import open_project, project_status, workflow_of


class Project(Mapping[str, xr.Dataset]):
    """The results of a run by node: `Project("project")["integrate"]["image"]`.

    Datasets are lazy: what a window needs is read when it is computed.

    Parameters
    ----------
    folder
        Of the project, or its address in an object store.

    Raises
    ------
    DataError
        If the folder is no project.
    """

    def __init__(self, folder: str | Place) -> None:
        self.folder = place(folder)
        self._store = open_project(self.folder)

    def __getitem__(self, node: str) -> xr.Dataset:
        if self._store.newest(node) is None:
            raise KeyError(f"no complete result of node {node!r}{suggest(node, self)}")
        return self._store.open(node)

    def __iter__(self) -> Iterator[str]:
        """Nodes with a complete result, in the order in which they ran."""
        rows, _ = project_status(self.folder)
        return iter(dict.fromkeys(row["node"] for row in rows if row["complete"]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, node: object) -> bool:
        return isinstance(node, str) and self._store.newest(node) is not None

    @cached_property
    def workflow(self) -> Workflow:
        """The workflow of the last run, complete with all parameters.

        Raises
        ------
        DataError
            If nothing has run here.
        """
        return workflow_of(self._store)

    @property
    def outputs(self) -> list[Place]:
        """Files that the run wrote for people."""
        return sorted((p for p, _ in files(self.folder / "outputs")), key=lambda p: p.parts)

    def status(self) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """State of every node, and the frames left out with their reasons (as `skyloom status --json`)."""
        return project_status(self.folder)

    def __repr__(self) -> str:
        return f"<skyloom project {self.folder}: {count(len(self), 'node')} complete: {', '.join(self)}>"

    def _repr_html_(self) -> str:
        rows, left_out = self.status()
        body = [
            (
                r["node"],
                r["op"],
                "complete" if r["complete"] else "unfinished",
                r["done"] or "",
                r["seconds"] or "",
            )
            for r in rows
        ]
        text = notebook.table(("node", "op", "state", "tasks", "s"), body, title=f"Project {self.folder}")
        return text + (notebook.table(("left out", "why"), left_out) if left_out else "")
