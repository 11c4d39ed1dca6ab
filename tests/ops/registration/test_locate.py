"""Where every frame looks, by its stars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from skyloom.ops.arrays import LOCATION
from skyloom.ops.errors import NotYetKnown
from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.registration.anchor import place_wcs
from skyloom.ops.registration.locate import Location, locate, place, solve_locations
from skyloom.ops.registration.placing import Place, unit_vector
from skyloom.ops.registration.stars import STAR_QUANTITIES


def tables(sky: Any, *, extra: int = 0) -> tuple[xr.Dataset, np.ndarray, np.ndarray]:
    """Session without WCS, star tables and states; `extra` frames see nothing."""
    n = len(sky.stars) + extra
    stars = np.full((n, 400, len(STAR_QUANTITIES)), np.nan)
    for f, points in sky.stars.items():
        k = len(points)
        flux = np.linspace(5000, 300, k)
        stars[f, :k] = np.stack(
            [*points.T, flux, flux / 100, np.full(k, 3.0), np.zeros(k), np.zeros(k), flux / 10, np.zeros(k)],
            axis=-1,
        )
    columns: dict[str, Any] = {
        "name": [f"f{i}.fits" for i in range(n)],
        "wcs": [""] * n,
        "height": [sky.shape[0]] * n,
        "width": [sky.shape[1]] * n,
        "camera": [f"camera {sky.camera.get(i, 0)}" for i in range(n)],
    }
    session = xr.Dataset(
        {k: ("frame", np.array(v)) for k, v in columns.items()}, {"frame": [f"id{i}" for i in range(n)]}
    )
    return session, stars, np.where(np.arange(n) < len(sky.stars), 0.0, 3.0)


def look(found: Location) -> Callable[[int, np.ndarray], np.ndarray]:
    def at(frame: int, pixels: np.ndarray) -> np.ndarray:
        ra, dec = pixel_to_sky(parse_wcs(found.wcs[frame]), *pixels.T)
        return np.array([unit_vector(a, d) for a, d in zip(ra, dec, strict=True)])

    return at


def header_of(sky: Any, frame: int, *, shift: float = 0.0) -> str:
    """True WCS of a frame, moved by pixels."""
    p = sky.truth[frame]
    moved = Place(p.look(p.middle[None] + shift)[0], p.linear, p.middle)
    return place_wcs(moved, sky.half, np.zeros((2, 7)))


def test_panels_without_any_wcs_come_to_lie_as_on_the_sky(panels: Callable[..., Any]) -> None:
    sky = panels(rows=3, columns=3, depth=3, overlap=0.09, scales=(1.0, 1.02), bend=(5.0, 4.0), density=100.0)
    session, stars, status = tables(sky, extra=2)
    session["ra"] = ("frame", np.full(session.sizes["frame"], 200.0))
    session["dec"] = ("frame", np.full(session.sizes["frame"], -30.0))
    found = solve_locations(session, stars, status)
    away = sky.error(look(found))
    # Overlaps of 130 px hold some twenty stars, of 0.08 px each.
    assert np.sqrt((away**2).mean()) < 0.25
    assert away.max() < 1.0
    assert found.reason[:27] == [""] * 27
    assert found.reason[27:] == ["no stars, and no header says where it looks"] * 2
    assert set(found.origin[:27]) == {"stars"}
    assert (found.island[:27] == 0).all()
    assert (found.island[27:] == -1).all()
    assert (found.matches[:27] > 30).all()
    assert np.median(found.residual[:27]) < 0.2
    centre = look(found)(13, sky.middle[None])[0]
    assert centre @ unit_vector(200, -30) > np.cos(np.radians(2))  # where the mount pointed
    assert "that of the mount's pointing" in found.notes[0]


def test_good_headers_are_kept_and_wrong_ones_replaced(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=2, depth=3)
    session, stars, status = tables(sky)
    texts = [header_of(sky, f, shift=40.0 if f == 4 else 0.0) for f in range(6)]
    texts[1] = ""
    session["wcs"] = ("frame", np.array(texts))
    found = solve_locations(session, stars, status)
    assert found.origin == ["header", "stars", "header", "header", "stars", "header"]
    assert found.wcs[0] == texts[0]
    assert found.off[4] == pytest.approx(40 * np.sqrt(2), abs=1)
    true = np.concatenate([sky.look(f, sky.stars[f]) for f in (1, 4)])
    mine = np.concatenate([look(found)(f, sky.stars[f]) for f in (1, 4)])
    assert np.abs(true - mine).max() / sky.truth[0].scale < 1.0  # on the sky, not only among themselves
    never = solve_locations(session, stars, status, trust="never")
    assert set(never.origin) == {"stars"}


def test_fields_apart_are_islands_and_a_stray_frame_is_named(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=2, depth=4, overlap=-1.0)
    other = panels(rows=1, columns=1, depth=1, seed=77)
    sky.stars[8], sky.camera[8] = other.stars[0], 0
    session, stars, status = tables(sky)
    found = solve_locations(session, stars, status)
    assert found.island.tolist() == [0] * 4 + [1] * 4 + [-1]
    assert all(
        "one of 4 frames that share no stars with the 4 of the largest group" in r for r in found.reason[4:8]
    )
    assert "match no other frame, and no header says where it looks" in found.reason[8]
    assert [bool(w) for w in found.wcs] == [True] * 4 + [False] * 5
    session["wcs"] = ("frame", np.array([header_of(sky, f) for f in range(8)] + [header_of(sky, 0)]))
    assert solve_locations(session, stars, status).reason == [""] * 9  # headers place the islands


def test_two_deep_stacks_with_a_narrow_overlap_are_one_island(panels: Callable[..., Any]) -> None:
    sky = panels(
        rows=1, columns=2, depth=12, overlap=0.12, density=120.0
    )  # more partners in a stack than are asked for
    found = solve_locations(*tables(sky))
    assert (found.island == 0).all()
    assert sky.error(look(found)).max() < 0.5


def measurement(stars: np.ndarray, status: np.ndarray) -> xr.Dataset:
    summary = np.zeros((len(stars), 7))
    summary[:, -1] = status
    return xr.Dataset(
        {
            "stars": (("frame", "star", "star_quantity"), da.from_array(stars, chunks=(1, -1, -1))),
            "summary": (("frame", "summary_quantity"), da.from_array(summary, chunks=(1, -1))),
        }
    )


def test_the_op_is_lazy_and_its_places_are_known_only_then(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=1, depth=2)
    session, stars, status = tables(sky)
    lazy = locate(session, measurement(stars, status))
    assert all(v.chunks is not None for v in lazy.data_vars.values() if v.dims)
    with pytest.raises(NotYetKnown, match="when their stars have been compared"):
        place(session, lazy)
    lazy.encoding[LOCATION] = {"kind": "stored"}
    placed = place(session, lazy)
    expected = solve_locations(session, stars, status)
    assert placed["wcs"].values.tolist() == expected.wcs
    assert placed["name"].values.tolist() == session["name"].values.tolist()


def test_nobody_there() -> None:
    session = xr.Dataset({n: ("frame", np.empty(0, str)) for n in ("name", "wcs", "height", "width")})
    found = solve_locations(session, np.empty((0, 10, 9)), np.empty(0))
    assert found.wcs == []


def test_frames_without_stars_are_told_apart(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=1, depth=3, shape=(900, 1000))
    session, stars, status = tables(sky, extra=3)
    light = np.array([[1000.0, 14.0]] * 3 + [[0.0, 2.0], [3000.0, 24.0], [1000.0, 14.0]])
    found = solve_locations(session, stars, status, light=light)
    assert found.reason == [
        "",
        "",
        "",
        "no stars (noise 2 where others have 14: did any light come in?), and no header says where it looks",
        "no stars (sky 3000 where others have 1000: clouds?), and no header says where it looks",
        "no stars (clouded, trailed or out of focus?), and no header says where it looks",
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_narrow_overlaps_are_looked_at_again_when_the_lens_is_known(panels: Callable[..., Any], seed: int) -> None:
    # Ten to sixteen common stars in 70 px, half of them displaced by more than two frames can agree on.
    sky = panels(
        rows=2,
        columns=2,
        depth=2,
        shape=(1000, 1000),
        overlap=0.07,
        density=300.0,
        bend=(6.0,),
        limit=400,
        seed=seed,
    )
    found = solve_locations(*tables(sky))
    assert (found.island == 0).all()
    assert sky.error(look(found)).max() < 0.5


def test_a_wide_mosaic_without_a_scale_says_how_it_was_found_and_how_well_it_is_tied(
    panels: Callable[..., Any],
) -> None:
    sky = panels(rows=5, columns=5, depth=2, overlap=0.12, bend=(6.0,), shape=(1800, 2400))
    found = solve_locations(*tables(sky), solve="never")
    away = sky.error(look(found))
    assert away.max() < 0.5
    assert "its scale by how panels fit on a sphere: " in found.notes[0]
    scale = float(found.notes[0].split("sphere: ")[1].split()[0])
    assert scale == pytest.approx(2.0, rel=0.1)
    # Frames of the test are all alike, which the solution cannot know: it states what refraction would do.
    assert 1 / 2.5 < np.sqrt((away**2).mean() / (found.tie**2).mean()) < 1.5
    assert found.loops > 16
    assert found.closure < 0.1
    near = solve_locations(*tables(panels(rows=1, columns=1, depth=3)), solve="never")
    session, stars, status = tables(panels(rows=1, columns=1, depth=3))
    session["focal_length"] = ("frame", np.full(3, 500.0))
    session["pixel_size"] = ("frame", np.full(3, 4.848))
    told = solve_locations(session, stars, status, solve="never")
    assert "its scale by the focal length and how panels fit on a sphere: 2 arcsec/px ± 2 %" in told.notes[0]
    assert "its scale is not known either, taken as 1 arcsec/px" in near.notes[0]


def test_places_of_the_last_run_stay_and_new_frames_come_onto_them(panels: Callable[..., Any]) -> None:
    sky = panels(rows=2, columns=2, depth=3, overlap=0.15, density=100.0)
    session, stars, status = tables(sky)
    n = session.sizes["frame"]
    old = [f for f in range(n) if f % 3 < 2]
    measured = measurement(stars, status)
    first = locate(session.isel(frame=old), measured.isel(frame=old)).compute(scheduler="synchronous")
    both = locate(session, measured, earlier=first, solution="keep of it").compute(scheduler="synchronous")
    assert both["kept"].values.tolist() == [f % 3 < 2 for f in range(n)]
    for name in ("wcs", "origin", "residual", "matches", "tie"):
        np.testing.assert_array_equal(both[name].values[old], first[name].values)
    texts = both["wcs"].values.tolist()
    assert all(texts)
    assert {parse_wcs(t).wcs.name for t in texts} == {parse_wcs(str(first["wcs"].values[0])).wcs.name}

    def at(frame: int, pixels: np.ndarray) -> np.ndarray:
        ra, dec = pixel_to_sky(parse_wcs(texts[frame]), *pixels.T)
        return np.array([unit_vector(a, d) for a, d in zip(ra, dec, strict=True)])

    assert sky.error(at).max() < 1.0
    # One frame less, of another run's middle: nobody moves.
    rest = [f for f in range(n) if f != 4]
    third = locate(session.isel(frame=rest), measured.isel(frame=rest), earlier=both, solution="keep of it")
    np.testing.assert_array_equal(third["wcs"].compute(scheduler="synchronous").values, both["wcs"].values[rest])
