"""`skyloom demo`: a small mosaic session, simulated and run."""

from __future__ import annotations

from pathlib import Path

from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.simulate import SimulatedSession, demo_session
from skyloom.workflows.progress import Reporter
from skyloom.workflows.runner import RunReport, run_workflow
from skyloom.workflows.simulate import TRUTH, simulate_and_report


def session(*, seed: int) -> SimulatedSession:
    """2 × 3 panels of 4 calibrated frames in R, G and B: gradients, changing transparency and seeing, trails."""
    return demo_session(
        seed=seed,
        panels=(2, 3),
        bands=("R", "G", "B"),
        raw=False,
        flip=False,
        linear=0.12,
        quadratic=0.03,
        camera=Camera(height=560, width=640),
    )


def run_demo(folder: Path, *, seed: int, reporter: Reporter) -> tuple[RunReport, Path]:
    """Simulate a small mosaic session and run all of it.

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
        simulate_and_report(frames, session(seed=seed), reporter)
    report = run_workflow("mosaic", frames, project=folder / "project", reporter=reporter)
    return report, folder / "project" / "outputs" / "mosaic.png"
