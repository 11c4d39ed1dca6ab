"""Write a simulated session as a folder of FITS files with the truth beside them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from astropy.io import fits

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.simulate import SimulatedFrame, SimulatedSession, acceptance_session
from skyloom.ops.simulation.sky import SkyModel
from skyloom.workflows.machine import count, format_seconds
from skyloom.workflows.progress import Advance, Reporter
from skyloom.workflows.store import disk_errors

TRUTH = "truth.json"


def simulate_session(
    directory: Path | str,
    session: SimulatedSession,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> list[Path]:
    """Write all frames of a session.

    Parameters
    ----------
    directory
        Gets the light frames, `truth.json` and, of a raw session, the folders `bias`, `dark` and `flat`. Made when
        absent; files of the same name are replaced. The same session gives the same bytes.
    session
        What to simulate.
    progress
        Called with (frames written, frames in all) after each.
    workers
        Frames rendered at a time (the cores there are, at most 4: a frame of 2048² takes 0.3 GB).

    Returns
    -------
    list of Path
        The frames, in the order of `session.descriptors()`.
    """
    folder = Path(directory)
    frames = session.descriptors()
    paths = [_path(folder, frame) for frame in frames]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    # The truth goes last: a folder with it is complete.
    (folder / TRUTH).unlink(missing_ok=True)
    with ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 4)) as pool:
        jobs = [pool.submit(_write, path, session, n) for n, path in enumerate(paths)]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                if progress is not None:
                    progress(done, len(jobs))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    (folder / TRUTH).write_text(json.dumps(session.truth(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def simulate_and_report(folder: Path, session: SimulatedSession, reporter: Reporter) -> list[Path]:
    """Write all frames of a session, telling how far it is.

    Raises
    ------
    CapacityError
        If the folder cannot be written or the disk is full.
    """
    begin = time.monotonic()
    total = len(session.descriptors())
    pixels = session.camera.height * session.camera.width / 1e6
    reporter.node_begins("simulate", units=total, done=0)

    def progress(done: int, total: int) -> None:
        seconds = time.monotonic() - begin
        reporter.unit_done(Advance("simulate", done, total, done * pixels, total * pixels, seconds))

    with disk_errors(f"writing frames to {folder}"):
        paths = simulate_session(folder, session, progress=progress)
    seconds = time.monotonic() - begin
    note = f"{count(total, 'frame')} in {format_seconds(seconds)}"
    reporter.node_ends("simulate", seconds=seconds, note=note)
    return paths


def _path(folder: Path, frame: SimulatedFrame) -> Path:
    return (folder if frame.kind == "light" else folder / frame.kind) / f"{frame.name}.fits"


def _write(path: Path, session: SimulatedSession, index: int) -> None:
    hdu = fits.PrimaryHDU(session.render(index))
    for keyword, value in session.header(index).items():
        hdu.header[keyword] = value
    partial = path.with_name(path.name + ".part")
    hdu.writeto(partial, overwrite=True)
    partial.replace(path)


def simulate_from_options(
    directory: Path | str,
    *,
    panels: str,
    frames: int,
    size: int,
    overlap: float,
    bands: Sequence[str],
    nights: int,
    seed: int,
    raw: bool,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the session a command line describes, under the conditions of the acceptance session.

    Parameters
    ----------
    directory, progress
        As for `simulate_session`.
    panels
        "ROWSxCOLUMNS".
    frames, size, overlap, bands, nights, seed, raw
        Lights per panel and band; side of a frame (px); fraction of the side; filters; nights; which sky and
        noise; raw with calibration frames.

    Raises
    ------
    ConfigError
        For options that mean nothing.
    """
    return simulate_session(
        directory,
        session_from_options(
            panels=panels,
            frames=frames,
            size=size,
            overlap=overlap,
            bands=bands,
            nights=nights,
            seed=seed,
            raw=raw,
        ),
        progress=progress,
    )


def session_from_options(
    *,
    panels: str,
    frames: int,
    size: int,
    overlap: float,
    bands: Sequence[str],
    nights: int,
    seed: int,
    raw: bool,
) -> SimulatedSession:
    """Return the session of `simulate_from_options`."""
    found = re.fullmatch(r"\s*(\d+)\s*[x×X]\s*(\d+)\s*", panels)
    if found is None:
        raise ConfigError(f"panels are ROWSxCOLUMNS, as in 2x3; not {panels!r}")
    rows, columns = int(found[1]), int(found[2])
    if size < 64:
        raise ConfigError(f"frames of {size} px are too small to hold stars to align by; use 64 or more")
    # Small frames see with shorter focal lengths: enough stars in each.
    scale = 2.0 if size >= 1024 else 4.0
    field = 0.5 * max(rows, columns) * size * scale / 3600.0
    optics: dict[str, Any] = {"vignetting": 0.25, "dust": 8, "response": 0.01, "hot_fraction": 3e-4} if raw else {}
    if tuple(bands) == ("CFA",):
        optics["bayer"] = "RGGB"
    return acceptance_session(
        seed=seed,
        panels=(rows, columns),
        frames=frames,
        bands=tuple(bands),
        nights=nights,
        overlap=overlap,
        pixel_scale=scale,
        raw=raw,
        flip=raw,
        camera=Camera(height=size, width=size, **optics),
        sky=SkyModel(
            seed=seed, extent=0.8 * field, coarsest=min(1.0, field), nebula=60.0 / scale**2, finest=8.0 * scale
        ),
    )
