"""`skyloom demo`: a small mosaic session, simulated and run."""

from __future__ import annotations

from pathlib import Path

from skyloom.workflows.progress import Reporter
from skyloom.workflows.runner import RunReport, run_workflow
from skyloom.workflows.simulate import simulate_from_options


def run_demo(folder: Path, *, seed: int, reporter: Reporter) -> tuple[RunReport, Path]:
    """Simulate 2 × 3 panels in R, G and B and make one mosaic of them.

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
    if not (frames / "truth.json").exists():
        reporter.message(
            f"simulating 54 frames of 6 panels in R, G and B with gradients, clouds and trails: {frames}"
        )
        simulate_from_options(
            frames,
            panels="2x3",
            frames=3,
            size=640,
            overlap=0.15,
            bands=["R", "G", "B"],
            nights=2,
            seed=seed,
            raw=False,
        )
    report = run_workflow("mosaic", [frames], project=folder / "project", reporter=reporter)
    return report, folder / "project" / "outputs" / "mosaic.png"
