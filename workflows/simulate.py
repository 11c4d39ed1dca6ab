"""Write a simulated session as a folder of FITS files with the truth beside them."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from astropy.io import fits

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation import truth
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.faults import FAULTS, planted
from skyloom.ops.simulation.presets import acceptance_session, like_rig, raw_conditions, second_rig
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.session_file import session_text
from skyloom.ops.simulation.sky import SkyModel
from skyloom.workflows.machine import count, format_seconds
from skyloom.workflows.progress import Advance, Reporter
from skyloom.workflows.store import disk_errors

TRUTH = "truth.json"
_FOUND = 1000.0
"""Flux (DN) of a star that stands out of the noise of a frame."""


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
        Gets the frames, in folders as the session's layout says, and `truth.json`. Made when absent; files of the
        same name are replaced. The same session gives the same bytes.
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
    paths = [folder / path for path in session.paths]
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
    _spoil_files(folder, session)
    (folder / TRUTH).write_text(json.dumps(session.truth(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def write_session(directory: Path | str, session: SimulatedSession) -> Path:
    """Write a session as one small file that can be planned and run like a folder of frames.

    Its frames are computed where they are read. `truth.json` lies beside it.

    Parameters
    ----------
    directory
        Gets the file; made when absent.
    session
        What to simulate.

    Raises
    ------
    ConfigError
        For faults, which are of files.
    """
    if session.faults:
        raise ConfigError("--faults are planted in files, and --lazy makes none; leave one of them out")
    folder = Path(directory)
    with disk_errors(f"writing to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "session.sky"
        path.write_text(session_text(session), encoding="utf-8")
        text = json.dumps(session.truth(), indent=1, ensure_ascii=False) + "\n"
        (folder / TRUTH).write_text(text, encoding="utf-8")
    return path


def image_size(text: str) -> tuple[int, int]:
    """Width and height (px) of "1024" or "6248x4176".

    Raises
    ------
    ConfigError
        If it is neither.
    """
    found = re.fullmatch(r"\s*(\d+)\s*(?:[x×X]\s*(\d+)\s*)?", text)
    if found is None:
        raise ConfigError(f"the size of a frame is PIXELS or WIDTHxHEIGHT, as in 6248x4176; not {text!r}")
    return int(found[1]), int(found[2] or found[1])


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


def _write(path: Path, session: SimulatedSession, index: int) -> None:
    hdu = fits.PrimaryHDU(session.render(index))
    for keyword, value in session.header(index).items():
        hdu.header[keyword] = value
    partial = path.with_name(path.name + ".part")
    hdu.writeto(partial, overwrite=True)
    partial.replace(path)


def _spoil_files(folder: Path, session: SimulatedSession) -> None:
    """Plant the faults that are of files, not of frames."""
    for fault in planted(session):
        for index in fault.lights:
            path = folder / session.paths[index]
            if fault.name == "broken-file":
                os.truncate(path, path.stat().st_size * 2 // 3)
            elif fault.name == "twin":
                shutil.copyfile(path, folder / truth.twin_path(session))


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
    size: int | tuple[int, int],
    overlap: float,
    bands: Sequence[str],
    nights: int,
    seed: int,
    raw: bool,
    scale: float | None = None,
) -> SimulatedSession:
    """Return the session of `simulate_from_options`.

    `size` may be width and height of a frame, `scale` says the pixels' (arcsec; none = by the size).
    """
    found = re.fullmatch(r"\s*(\d+)\s*[x×X]\s*(\d+)\s*", panels)
    if found is None:
        raise ConfigError(f"panels are ROWSxCOLUMNS, as in 2x3; not {panels!r}")
    rows, columns = int(found[1]), int(found[2])
    width, height = (size, size) if isinstance(size, int) else size
    if min(width, height) < 64:
        raise ConfigError(
            f"frames of {min(width, height)} px are too small to hold stars to align by; use 64 or more"
        )
    if scale is None:
        # Small frames see with shorter focal lengths: enough stars in each.
        scale = 2.0 if min(width, height) >= 1024 else 4.0
    elif not 0.01 <= scale <= 600:
        raise ConfigError(f"--scale {scale:g}: 0.01 to 600 arcsec a pixel")
    field = 0.5 * max(rows * height, columns * width) * scale / 3600.0
    bayer = "RGGB" if tuple(bands) == ("CFA",) else ""
    session = acceptance_session(
        seed=seed,
        panels=(rows, columns),
        frames=frames,
        bands=tuple(bands),
        nights=nights,
        overlap=overlap,
        pixel_scale=scale,
        camera=Camera(height=height, width=width, bayer=bayer),
        sky=SkyModel(
            seed=seed, extent=0.8 * field, coarsest=min(1.0, field), nebula=60.0 / scale**2, finest=8.0 * scale
        ),
    )
    return raw_conditions(session) if raw else session


def raw_options(
    session: SimulatedSession,
    *,
    faults: bool = False,
    layout: str = "plain",
    dialect: str = "skyloom",
    flat_darks: bool = False,
    overscan: int = 0,
    pedestal: float = 0.0,
    rigs: int = 1,
) -> SimulatedSession:
    """Return a raw session with what a command line adds to it.

    Parameters
    ----------
    session
        Raw, as `session_from_options` makes it.
    faults
        Plant every fault there is.
    layout, dialect
        Names of files; keywords of headers.
    flat_darks
        Take darks of the flats' exposures.
    overscan
        Columns that see no light; the bias level drifts then.
    pedestal
        DN the capture program adds to lights.
    rigs
        1 or 2 cameras.

    Raises
    ------
    ConfigError
        For values that mean nothing, and for any of these without raw frames.
    """
    if rigs not in (1, 2):
        raise ConfigError(f"--rigs {rigs}: 1 or 2")
    camera = replace(session.camera, overscan=overscan, drift=3.0 if overscan else 0.0)
    changed = replace(
        session,
        faults=tuple(FAULTS) if faults else (),
        layout=layout,
        dialect=dialect,
        flat_darks=flat_darks,
        pedestal=pedestal,
        camera=camera,
    )
    if rigs == 2:
        changed = replace(changed, rigs=(second_rig(changed),))
    if changed != session and not session.raw:
        raise ConfigError("faults, layouts, dialects, flat-darks, overscan, pedestal and rigs need --raw")
    return changed


def placing_options(
    session: SimulatedSession,
    *,
    solved: bool = True,
    flip: bool = False,
    turn: float | None = None,
    dither: float | None = None,
    barrel: float = 0.0,
    second_scale: float | None = None,
    stars: int | None = None,
    hot: float = 0.0,
    bad: int = 0,
) -> SimulatedSession:
    """Return a session with what makes its frames hard to place.

    Parameters
    ----------
    session
        As `session_from_options` makes it.
    solved
        Headers hold a WCS and the place of the object.
    flip
        Turn the camera by 180° in the second half of each panel's frames.
    turn, dither
        Rms of the camera's rotation (degrees) and of the pointing (px) from frame to frame.
    barrel
        Distortion at the corner (px).
    second_scale
        A second camera with this times the pixel scale takes every other frame of a panel.
    stars
        Stars in a frame that stand out of the noise, about.
    hot
        Fraction of hot pixels.
    bad
        Useless frames more.

    Raises
    ------
    ConfigError
        For values that mean nothing.
    """
    if bad < 0 or (stars is not None and stars < 0) or not 0 <= hot < 1:
        raise ConfigError(f"--bad {bad}, --stars {stars}, --hot {hot:g}: not below 0, and --hot below 1")
    changed = replace(session, solved=solved, flip=session.flip or flip, barrel=barrel, bad=bad)
    if turn is not None:
        changed = replace(changed, rotation_jitter=turn)
    if dither is not None:
        changed = replace(changed, dither=dither)
    if hot:
        changed = replace(changed, camera=replace(changed.camera, hot_fraction=hot))
    if stars is not None:
        camera, sky = session.camera, session.sky
        area = camera.height * camera.width * (session.pixel_scale / 3600.0) ** 2
        faintest = (_FOUND / sky.star_faint) ** sky.star_slope
        changed = replace(changed, sky=replace(sky, star_density=stars / area * faintest))
    if second_scale is not None:
        if not 0.2 <= second_scale <= 5:
            raise ConfigError(f"--second-camera {second_scale:g}: 0.2 to 5 times the pixel scale")
        changed = replace(changed, rigs=(like_rig(changed, second_scale),), turns=True)
    return changed
