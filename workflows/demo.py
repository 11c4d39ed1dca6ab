"""`skyloom demo`: a small raw mosaic session, simulated and run."""

from __future__ import annotations

from pathlib import Path

from skyloom.ops.simulation.simulate import demo_session
from skyloom.workflows.progress import Reporter
from skyloom.workflows.run_report import RunReport
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import TRUTH, simulate_and_report


def run_demo(folder: Path, *, seed: int, reporter: Reporter) -> tuple[RunReport, Path]:
    """Simulate a small raw LRGB mosaic session and run all of it.

    Parameters
    ----------
    folder
        Gets `frames/` (the session and its truth) and `project/` (the run).
    seed
        Which sky.
    reporter
        Hears of the progress.

    Returns
    -------
    RunReport
        Of the mosaic's run.
    Path
        The colour picture.
    """
    frames = folder / "frames"
    if not (frames / TRUTH).exists():
        simulate_and_report(frames, demo_session(seed=seed), reporter)
    report = run_workflow("lrgb", frames, project=folder / "project", reporter=reporter)
    return report, folder / "project" / "outputs" / "picture.png"
