"""Frames with holes and burnt-out stars, from pixels to places, against the simulated sky."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.grid import Grid, sky_to_pixel
from skyloom.ops.measurement.measure import FrameMeasurement, measure_frame
from skyloom.ops.registration.locate import Location, solve_locations
from skyloom.ops.registration.stars import BLENDED, NEAR_EDGE, SATURATED, STAR_QUANTITIES
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.simulate import SimulatedSession, session_table
from skyloom.ops.simulation.sky import SkyModel

SHAPE = (400, 500)
FULL_WELL = 2000.0
"""Twice the sky's level: one star in ten is clipped."""
RIMS = (0, 6, 17, 40, 25, 3)
Y, X = np.indices(SHAPE)
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Two panels of three frames each, the second half of each upside down."""

    session: SimulatedSession
    images: list[Image]

    def stars(self, frame: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """True positions (n, 2) and fluxes of a frame's stars."""
        pointing = self.session.lights[frame].exposure.pointing
        assert pointing is not None
        grid = Grid(pointing.header(), SHAPE, 512)
        stars = self.session.sky.stars(grid, slice(0, SHAPE[0]), slice(0, SHAPE[1]), "L", margin=10.0)
        return np.stack(sky_to_pixel(grid.wcs, stars.ra, stars.dec), axis=-1), stars.flux


@pytest.fixture(scope="module")
def scene() -> Scene:
    session = SimulatedSession(
        panels=(1, 2),
        frames=3,
        overlap=0.3,
        flip=True,
        rotation_jitter=0.5,
        cosmic_rays=0.0,
        trails=0.0,
        camera=Camera(height=SHAPE[0], width=SHAPE[1], saturation=1e6),
        sky=SkyModel(star_density=8000.0),
    )
    return Scene(session, [np.asarray(session.render(i), np.float32) for i in range(len(session))])


def rim(frame: int, image: Image) -> Image:
    """No data along the sides, each frame to another depth."""
    width = RIMS[frame]
    away = np.minimum(np.minimum(X, SHAPE[1] - 1 - X), np.minimum(Y, SHAPE[0] - 1 - Y))
    return np.where(away < width, np.float32(np.nan), image)


def corner(frame: int, image: Image) -> Image:
    """No data in an eighth of the frame, in each frame at another corner."""
    x, y = X / SHAPE[1], Y / SHAPE[0]
    side = [x + y, 1 - x + y, x + 1 - y, 2 - x - y][frame % 4]
    return np.where(side < 0.5, np.float32(np.nan), image)


def clipped(frame: int, image: Image) -> Image:
    return np.minimum(image, np.float32(FULL_WELL))


def cored(frame: int, image: Image) -> Image:
    """What calibration makes of saturated pixels."""
    return np.where(image >= FULL_WELL, np.float32(np.nan), image)


def everything(frame: int, image: Image) -> Image:
    return corner(frame, rim(frame, clipped(frame, image)))


HURTS: dict[str, tuple[Callable[[int, Image], Image], float]] = {
    "rim": (rim, np.nan),
    "corner": (corner, np.nan),
    "clipped": (clipped, FULL_WELL),
    "clipped, level unknown": (clipped, np.nan),
    "no cores": (cored, np.nan),
    "rim, corner, clipped": (everything, FULL_WELL),
}


def look_at(scene: Scene, hurt: Callable[[int, Image], Image], saturation: float) -> list[FrameMeasurement]:
    gain = scene.session.camera.gain
    return [
        measure_frame(np.ascontiguousarray(hurt(i, image)), gain=gain, saturation=saturation)
        for i, image in enumerate(scene.images)
    ]


def placed(scene: Scene, measured: list[FrameMeasurement]) -> Location:
    table = session_table(scene.session)
    table["wcs"] = ("frame", np.array([""] * len(measured)))
    stars = np.full((len(measured), 1000, len(STAR_QUANTITIES)), np.nan)
    for i, m in enumerate(measured):
        stars[i, : len(m.stars)] = m.stars
    return solve_locations(table, stars, np.array([m.summary[6] for m in measured]), solve="never")


@pytest.mark.parametrize("name", HURTS)
def test_hurt_frames_come_to_lie_where_they_look(
    scene: Scene, name: str, benchmark_script: Callable[[str], ModuleType]
) -> None:
    hurt, saturation = HURTS[name]
    found = placed(scene, look_at(scene, hurt, saturation))
    assert found.reason == [""] * 6
    assert set(found.origin) == {"stars"}
    assert (found.island == 0).all()
    truth = benchmark_script("registration_truth")
    mine, true = [], []
    for i, image in enumerate(scene.images):
        points = 20.0 * np.argwhere(np.isfinite(hurt(i, image))[::20, ::20])[:, ::-1]
        mine.append(truth.directions(found.wcs[i], points))
        pointing = scene.session.lights[i].exposure.pointing
        assert pointing is not None
        true.append(pointing.look(*points.astype(np.float64).T))
    away = truth.errors(np.concatenate(mine), np.concatenate(true))
    distance = np.hypot(*away.T) / np.radians(scene.session.pixel_scale / 3600)
    assert np.sqrt((distance**2).mean()) < 0.1
    assert distance.max() < 0.25


@pytest.mark.parametrize("name", HURTS)
def test_what_patterns_are_made_of_is_stars(scene: Scene, name: str) -> None:
    hurt, saturation = HURTS[name]
    for i, m in enumerate(look_at(scene, hurt, saturation)):
        fit = m.stars[(m.stars[:, 8].astype(int) & (BLENDED | NEAR_EDGE)) == 0]
        at, flux = scene.stars(i)
        bright = flux > 500
        assert len(fit) > 40
        distance, _ = cKDTree(at[bright]).query(fit[:, :2])
        # Neither holes nor rims nor the rings about burnt-out cores are taken for stars.
        assert distance.max() < 2.5
        assert np.median(distance[:20]) < 0.065


@pytest.mark.parametrize("saturation", [FULL_WELL, np.nan])
def test_clipped_stars_are_flagged_and_well_placed(scene: Scene, saturation: float) -> None:
    told, away = 0, []
    for i, m in enumerate(look_at(scene, clipped, saturation)):
        at, _ = scene.stars(i)
        flags = m.stars[:, 8].astype(int)
        burnt = np.isclose(np.array([top(scene.images[i], s) for s in m.stars]), FULL_WELL)
        marked = (flags & SATURATED) > 0
        told += int((marked & burnt).sum())
        assert not (marked & ~burnt).any()
        if np.isfinite(saturation):
            assert (marked == burnt).all()
        alone = m.stars[marked & ((flags & (BLENDED | NEAR_EDGE)) == 0)]
        away.append(cKDTree(at).query(alone[:, :2])[0])
    assert told > (30 if np.isfinite(saturation) else 10)
    assert np.sqrt((np.concatenate(away) ** 2).mean()) < 0.1


def top(image: Image, star: NDArray[np.float64]) -> float:
    """Highest pixel about a star, clipped."""
    x, y = round(float(star[0])), round(float(star[1]))
    around = image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    return float(np.minimum(around, FULL_WELL).max())
