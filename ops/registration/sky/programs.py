"""Astrometry.net's `solve-field`, where it is installed: it is given a list of stars, not a picture."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.registration.placing import sky_position
from skyloom.ops.registration.sky.field import Field
from skyloom.ops.registration.sky.verify import LEAST, Solution, similarity_on_sky

Floats = NDArray[np.float64]

PROGRAM = "solve-field"
STARS = 300
"""Brightest stars it is given."""
PATIENCE = 60
"""Seconds of computing it is given; twice that by the clock."""
_SLACK = 1.1
_RADIUS = 6.0  # degrees about the pointing
_ODDS = -9.0  # log10: what the program asks of a solution


def program_installed() -> bool:
    """Whether `solve-field` is on the PATH."""
    return shutil.which(PROGRAM) is not None


def solve_with_program(
    field: Field, *, scale: float = float("nan"), pointing: Floats | None = None, patience: int = PATIENCE
) -> tuple[Solution | None, str]:
    """Find a field on the sky with `solve-field` and the index files it is set up with.

    Parameters
    ----------
    field
        Stars of an island.
    scale
        Radians a pixel; NaN = unknown.
    pointing
        (3,) direction in which the field's middle should be.
    patience
        Seconds of computing.

    Returns
    -------
    solution : Solution or None
    reason : str
        Why there is none; "" where there is one.
    """
    where = shutil.which(PROGRAM)
    if where is None:
        return None, f"{PROGRAM} is not installed (Debian: astrometry.net and its index files)"
    if len(field.vectors) < LEAST:
        return None, f"only {len(field.vectors)} stars"
    low = complex(field.origin)
    size = field.cell * np.array(field.covered.shape[::-1])
    z = field.plane[:STARS]
    with tempfile.TemporaryDirectory(prefix="skyloom-solve-") as folder:
        stars, corr = Path(folder) / "stars.xyls", Path(folder) / "stars.corr"
        columns = [
            fits.Column(name=name, format="D", array=values)
            for name, values in (("X", (z - low).real + 1.0), ("Y", (z - low).imag + 1.0))
        ]
        fits.BinTableHDU.from_columns(columns).writeto(stars)
        command = [where, "--overwrite", "--no-plots", "--no-remove-lines", "--uniformize", "0"]
        command += ["--x-column", "X", "--y-column", "Y", "--crpix-center", "--tweak-order", "2"]
        command += ["--width", str(int(np.ceil(size[0]))), "--height", str(int(np.ceil(size[1])))]
        command += ["--cpulimit", str(patience), "--dir", folder, "--temp-dir", folder, "--corr", str(corr)]
        if np.isfinite(scale):
            arcsec = np.degrees(scale) * 3600.0
            command += ["--scale-units", "arcsecperpix"]
            command += ["--scale-low", f"{arcsec / _SLACK:.6f}", "--scale-high", f"{arcsec * _SLACK:.6f}"]
        if pointing is not None:
            ra, dec = sky_position(pointing)
            reach = np.degrees(np.arctan(field.radius * scale)) if np.isfinite(scale) else 0.0
            command += ["--ra", f"{ra:.6f}", "--dec", f"{dec:.6f}", "--radius", f"{_RADIUS + reach:.3f}"]
        try:
            run = subprocess.run(
                [*command, str(stars)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=2 * patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, f"{PROGRAM} did not end within {2 * patience} s"
        except OSError as failure:
            return None, f"{PROGRAM} cannot be run: {failure}"
        if not corr.is_file():
            lines = [t.strip() for t in (run.stdout + "\n" + run.stderr).splitlines() if t.strip()]
            last = lines[-1] if lines else f"exit code {run.returncode}"
            if run.returncode == 0 and any("Did not solve" in t for t in lines):
                last = f"no match in its index files within {patience} s"
            return None, f"{PROGRAM}: {last[:120]}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = fits.getdata(corr, 1)
        at = table["field_x"] - 1.0 + 1j * (table["field_y"] - 1.0) + low
        ra, dec = np.radians(table["index_ra"]), np.radians(table["index_dec"])
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    rows = np.argmin(np.abs(z[:, None] - at), axis=0)
    if len(np.unique(rows)) < LEAST:
        return None, f"{PROGRAM}: a solution on {len(np.unique(rows))} stars only"
    middle = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    fits_of = []
    for mirrored in (False, True):
        mine = -z[rows].conj() if mirrored else z[rows]
        fits_of.append((*similarity_on_sky(mine, vectors, middle), mirrored))
    centre, turn, distance, mirrored = min(fits_of, key=lambda fit: float(np.median(fit[2])))
    rms = float(np.sqrt(np.mean(distance**2)))
    return Solution(centre, turn, mirrored, rows, vectors, rms, rms, _ODDS, len(rows)), ""
