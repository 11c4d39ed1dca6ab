"""What a notebook or a script needs, in one place.

    from skyloom.workflows.api import Project, open_workflow, plan, run

Importing it also gives Datasets with a canvas the accessor `sky` and tables of frames the accessor `session`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skyloom.workflows.evaluate import Results, open_workflow
from skyloom.workflows.graph import Workflow
from skyloom.workflows.places import Place
from skyloom.workflows.plan import Plan, make_plan
from skyloom.workflows.progress import Reporter, reporter
from skyloom.workflows.project import Project
from skyloom.workflows.run_report import RunReport
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.schedulers import default_workers
from skyloom.workflows.sky import SessionTable, Sky

__all__ = [
    "Plan",
    "Project",
    "Results",
    "RunReport",
    "SessionTable",
    "Sky",
    "Workflow",
    "open_workflow",
    "plan",
    "reporter",
    "run",
]

Files = Sequence[str | Path] | str | Path


def plan(
    workflow: Workflow | str,
    files: Files,
    *,
    project: str | Place | None = None,
    settings: Mapping[str, Any] | None = None,
    memory: float | None = None,
    workers: int | None = None,
) -> Plan:
    """Cost a workflow before a pixel moves.

    Parameters
    ----------
    workflow
        A `Workflow`, a preset's name or a YAML file.
    files
        Frames or folders of frames.
    project
        Folder whose finished results count.
    settings
        "node.parameter" → value.
    memory
        Limit in bytes (three quarters of what is available).
    workers
        Tasks at a time (the cores there are).

    Raises
    ------
    SkyloomError
        One clear line on what is wrong with workflow or files. What cannot fit raises only in `Plan.check`.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    return make_plan(
        _set(workflow, settings), paths, project=project, memory=memory, workers=workers or default_workers()
    )


def run(
    workflow: Workflow | str,
    files: Files,
    project: str | Place,
    *,
    settings: Mapping[str, Any] | None = None,
    scheduler: Any = "threads",
    workers: int | None = None,
    memory: float | None = None,
    progress: Reporter | None = None,
) -> Project:
    """Run a workflow, going on where an earlier run stopped, and open what came of it.

    Parameters
    ----------
    workflow, files, settings, memory, workers
        As for `plan`.
    project
        Folder of the project; made if it is not there.
    scheduler
        "threads", "synchronous", a dask scheduler's address or a `distributed.Client`.
    progress
        Hears of the progress; None: bars on a terminal, a table in a notebook, lines elsewhere.

    Raises
    ------
    SkyloomError
        One clear line: what, which file or node, the numbers, the remedy.
    """
    run_workflow(
        _set(workflow, settings),
        files,
        project=project,
        scheduler=scheduler,
        workers=workers,
        memory=memory,
        reporter=progress or reporter(),
    )
    return Project(project)


def _set(workflow: Workflow | str, settings: Mapping[str, Any] | None) -> Workflow:
    loaded = Workflow.load(workflow) if isinstance(workflow, str) else workflow
    return loaded.with_parameters(settings) if settings else loaded
