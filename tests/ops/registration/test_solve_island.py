"""Islands of frames that no header places, on the sky."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.grid import POINTED, RELATIVE, parse_wcs, pixel_to_sky, wcs_header
from skyloom.ops.registration.canvas import automatic_canvas
from skyloom.ops.registration.locate import Location, solve_locations
from skyloom.ops.registration.placing import Place, directions, plane_of, tangent_basis, unit_vector
from skyloom.ops.registration.sky import anchoring
from skyloom.ops.registration.sky.catalogue import bright_stars, catalogue_file
from skyloom.ops.registration.sky.field import make_field
from skyloom.ops.registration.sky.programs import solve_with_program
from skyloom.ops.registration.stars import STAR_QUANTITIES
from skyloom.workflows.export import Plane, fits_header

Floats = NDArray[np.float64]
SHAPE = (1400, 2000)
MIDDLE = np.array([0.5 * (SHAPE[1] - 1), 0.5 * (SHAPE[0] - 1)])
CENTRE = (150.0, 35.0)


def session_of(
    *, arcsec: float = 5.0, panels: int = 2, depth: int = 2, focal: float = 1.0, step: float = 0.6, seed: int = 1
) -> tuple[xr.Dataset, Floats, Floats, dict[int, Place]]:
    """Panels beside each other of the real sky at CENTRE, with faint stars; every other frame upside down.

    `step` is the distance of panels by their width; `focal` is what headers say of the focal length, by the truth.
    """
    path = catalogue_file()
    assert path is not None
    rng = np.random.default_rng(seed)
    scale = np.radians(arcsec / 3600)
    sky = tangent_basis(unit_vector(*CENTRE))
    known = bright_stars(path).around(sky[2], 4000 * scale)
    faint = directions(rng.uniform(-3200 * scale, 3200 * scale, (900, 2)), sky)
    vectors = np.concatenate([bright_stars(path).vectors[known], faint])
    magnitude = np.append(bright_stars(path).magnitude[known], rng.uniform(9.5, 12, len(faint)))
    stars = np.full((panels * depth, 400, len(STAR_QUANTITIES)), np.nan)
    truth = {}
    for f in range(panels * depth):
        at = np.array([[(f // depth - 0.5 * (panels - 1)) * step * SHAPE[1] * scale, 0.0]])
        c, s = np.cos(np.pi * (f % 2) + 0.4), np.sin(np.pi * (f % 2) + 0.4)
        truth[f] = Place(directions(at, sky)[0], scale * np.array([[-c, s], [s, c]]), MIDDLE)
        x = plane_of(vectors, truth[f].basis) @ np.linalg.inv(truth[f].linear).T + MIDDLE
        inside = np.flatnonzero(
            ((x > 6) & (x < (SHAPE[1] - 7, SHAPE[0] - 7))).all(axis=1) & (rng.random(len(x)) > 0.1)
        )
        rows = inside[np.argsort(magnitude[inside])][:400]
        points = x[rows] + rng.normal(0, 0.2, (len(rows), 2))
        flux = 10 ** (-0.4 * (magnitude[rows] - 14))
        other = np.zeros(len(rows))
        stars[f, : len(rows)] = np.stack(
            [*points.T, flux, flux / 100, other + 3, other, other, flux / 10, other], axis=-1
        )
    n = panels * depth
    columns: dict[str, Any] = {
        "name": [f"f{i}.fits" for i in range(n)],
        "kind": ["light"] * n,
        "wcs": [""] * n,
        "height": [SHAPE[0]] * n,
        "width": [SHAPE[1]] * n,
        "date": ["2024-03-05T22:10:00"] * n,
        "ra": [CENTRE[0] + 0.9] * n,
        "dec": [CENTRE[1] - 0.6] * n,
        "pixel_size": [4.0] * n,
        "focal_length": [focal * 4e-3 / scale] * n,
    }
    session = xr.Dataset(
        {k: ("frame", np.array(v)) for k, v in columns.items()}, {"frame": [f"id{i}" for i in range(n)]}
    )
    return session, stars, np.zeros(n), truth


def errors(found: Location, truth: dict[int, Place]) -> Floats:
    """Distance (px) from the truth at five points of every frame."""
    pixels = MIDDLE + 0.8 * MIDDLE * np.array([[0, 0], [1, 1], [-1, 1], [1, -1], [-1, -1]])
    out = []
    for f, place in truth.items():
        ra, dec = pixel_to_sky(parse_wcs(found.wcs[f]), *pixels.T)
        mine = np.array([unit_vector(a, d) for a, d in zip(ra, dec, strict=True)])
        out.append(np.linalg.norm(mine - place.look(pixels), axis=1) / place.scale)
    return np.array(out)


@pytest.mark.parametrize("focal", [1.0, 0.95])
def test_panels_without_a_wcs_are_anchored_by_the_catalogue(focal: float) -> None:
    session, stars, status, truth = session_of(focal=focal)
    found = solve_locations(session, stars, status)
    assert errors(found, truth).max() < 1.0
    assert "4 frames (f0.fits, …): on the sky by its stars: RA 1" in found.notes[0]
    assert automatic_canvas(session.assign(wcs=("frame", np.array(found.wcs)))).grid.on_sky


def test_islands_that_share_no_stars_come_to_one_canvas() -> None:
    session, stars, status, truth = session_of(step=0.85)
    found = solve_locations(session, stars, status)
    assert found.island.tolist() == [0, 0, 1, 1]
    assert errors(found, truth).max() < 1.0
    assert [note.split(":")[1] for note in found.notes] == [" on the sky by its stars"] * 2
    without = solve_locations(session.drop_vars(["ra", "dec"]), stars, status, solve="never")
    assert "one of 2 frames that share no stars with the 2 of the largest group" in without.reason[2]


def test_a_frame_by_itself_is_looked_up_too() -> None:
    session, stars, status, truth = session_of(panels=1, depth=1, arcsec=9.0)
    found = solve_locations(session, stars, status)
    assert errors(found, truth).max() < 1.0
    alone = solve_locations(session, stars, status, solve="never")
    assert alone.wcs == [""]
    assert "match no other frame" in alone.reason[0]


def test_a_wrong_header_is_corrected_when_asked_for() -> None:
    session, stars, status, truth = session_of()
    first = solve_locations(session, stars, status)
    wrong = []
    for text in first.wcs:
        wcs = parse_wcs(text).deepcopy()
        wcs.wcs.crval = np.add(wcs.wcs.crval, (0.0, 0.1))
        wrong.append(wcs_header(wcs))
    session["wcs"] = ("frame", np.array(wrong))
    believed = solve_locations(session, stars, status)
    assert errors(believed, truth).min() > 50
    asked = solve_locations(session, stars, status, solve="catalogue")
    assert errors(asked, truth).max() < 1.0
    assert set(asked.origin) == {"stars"}
    assert min(asked.off) == pytest.approx(72, abs=3)  # 0.1° of 5 arcsec pixels


def test_without_a_solution_nothing_is_said_of_the_sky(monkeypatch: pytest.MonkeyPatch) -> None:
    session, stars, status, _ = session_of()
    for columns, name in ((["ra", "dec"], RELATIVE), ([], POINTED)):
        mine = session.drop_vars(columns)
        found = solve_locations(mine, stars, status, solve="never")
        grid = automatic_canvas(mine.assign(wcs=("frame", np.array(found.wcs)))).grid
        assert not grid.on_sky
        header = fits_header_of(grid.to_attrs())
        assert header["WCSNAME"] == name
        assert not {"CTYPE1", "CRVAL1", "CD1_1", "PC1_1", "CDELT1", "CRPIX1"} & set(header)
        assert ("RA" in header) == (name == POINTED)
        assert "(not solved: solve = never)" in found.notes[0]
    monkeypatch.setattr(anchoring, "catalogue_file", lambda: None)
    monkeypatch.setattr(anchoring, "program_installed", lambda: False)
    note = solve_locations(session, stars, status).notes[0]
    assert "neither a star catalogue (pip install 'skyloom[solve]') nor solve-field is installed" in note
    assert "no star catalogue is installed" in solve_locations(session, stars, status, solve="catalogue").notes[0]


def fits_header_of(attrs: dict[str, Any]) -> fits.Header:
    image = xr.DataArray(np.zeros((2, 2), np.float32), dims=("y", "x"))
    dataset = xr.Dataset({"image": image}, attrs=attrs)
    return fits_header(dataset, Plane.of(dataset, variable="image", band=None))


def one_field() -> Any:
    _, stars, _, truth = session_of(panels=1, depth=1, arcsec=9.0)
    points = stars[0, np.isfinite(stars[0, :, 0]), :2]
    laid = Place(unit_vector(0, 0), truth[0].scale * np.diag([-1.0, 1.0]), MIDDLE)
    half = {0: 0.5 * float(np.hypot(*SHAPE))}
    field = make_field({0: laid}, {0: 0}, half, {0: SHAPE}, {0: points}, {0: np.zeros((2, 7))})
    return field, truth[0], laid


def program(folder: Path, text: str) -> None:
    path = folder / "solve-field"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_program_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field, _, _ = one_field()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, "echo 'You must list at least one index in the config file' >&2; exit 255")
    assert solve_with_program(field)[1] == "solve-field: You must list at least one index in the config file"
    program(tmp_path, "echo 'Did not solve (or no WCS file was written).'")
    assert solve_with_program(field)[1] == "solve-field: no match in its index files within 60 s"
    program(tmp_path, "exec sleep 20")
    assert solve_with_program(field, patience=0)[1] == "solve-field did not end within 0 s"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert solve_with_program(field)[1].startswith("solve-field is not installed")


@pytest.mark.skipif(
    shutil.which("solve-field") is None or not list(Path("/usr/share/astrometry").glob("index-*.fits")),
    reason="no astrometry.net with index files here",
)
def test_astrometry_net_and_the_catalogue_agree() -> None:
    field, truth, laid = one_field()
    found, why = solve_with_program(field, scale=truth.scale, pointing=truth.centre)
    assert found is not None, why
    place = anchoring.settle({0: laid}, field, found)[0]
    assert np.linalg.norm(place.look(MIDDLE[None]) - truth.look(MIDDLE[None])) / truth.scale < 1.0
    assert place.scale == pytest.approx(truth.scale, rel=1e-3)
