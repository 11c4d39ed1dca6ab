"""`skyloom demo`: a small mosaic session, simulated and run."""

from __future__ import annotations

import time
from pathlib import Path

from skyloom.ops.camera import Camera
from skyloom.ops.simulate import SimulatedSession, demo_session
from skyloom.workflows.machine import format_seconds
from skyloom.workflows.progress import Advance, Reporter
from skyloom.workflows.runner import RunReport, run_workflow
from skyloom.workflows.simulate import TRUTH, simulate_session
from skyloom.workflows.store import disk_errors


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
        _simulate(frames, session(seed=seed), reporter)
    report = run_workflow("mosaic", frames, project=folder / "project", reporter=reporter)
    return report, folder / "project" / "outputs" / "mosaic.png"


def _simulate(frames: Path, session: SimulatedSession, reporter: Reporter) -> None:
    begin = time.monotonic()
    total = len(session.descriptors())
    reporter.node_begins("simulate", units=total, done=0)

    def progress(done: int, total: int) -> None:
        pixels = session.camera.height * session.camera.width / 1e6
        seconds = time.monotonic() - begin
        reporter.unit_done(Advance("simulate", done, total, done * pixels, total * pixels, seconds))

    with disk_errors(f"writing frames to {frames}"):
        simulate_session(frames, session, progress=progress)
    seconds = time.monotonic() - begin
    reporter.node_ends("simulate", seconds=seconds, note=f"{total} frames in {format_seconds(seconds)}")
