"""The scorer must report the errors planted in an otherwise perfect mosaic."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.projection import Pointing
from skyloom.ops.simulation.simulate import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel

_path = Path(__file__).parents[2] / "benchmarks" / "score.py"
_spec = importlib.util.spec_from_file_location("skyloom_score", _path)
assert _spec is not None
assert _spec.loader is not None
scoring: Any = importlib.util.module_from_spec(_spec)
sys.modules["skyloom_score"] = scoring
_spec.loader.exec_module(scoring)

SIZE = 480
SUPERPIXEL = 32


@dataclass(frozen=True)
class Perfect:
    """A noise-ideal mosaic of known truth."""

    session: SimulatedSession
    grid: Grid
    image: NDArray[np.float64]
    variance: NDArray[np.float64]
    sets: NDArray[np.int64]
    factor: float

    def score(self, image: NDArray[np.float64] | None = None, **options: Any) -> Any:
        given = self.image if image is None else image
        options = {"superpixel": SUPERPIXEL, "band": "L"} | options
        return scoring.score(given, self.variance, self.grid, self.session.truth(), **options)

    def sky(self, grid: Grid) -> NDArray[np.float64]:
        window = (slice(0, grid.shape[0]), slice(0, grid.shape[1]))
        return self.factor * self.session.sky.true_image(grid, window, "L", 3.0)


@pytest.fixture(scope="module")
def perfect() -> Perfect:
    session = SimulatedSession(
        seed=3,
        panels=(2, 2),
        frames=2,
        pixel_scale=4.0,
        overlap=0.2,
        dither=0.0,
        rotation_jitter=0.0,
        fwhm=(3.0, 3.0),
        transparency=(0.7, 1.05),
        camera=Camera(height=SIZE, width=SIZE),
        sky=SkyModel(seed=3, ra=84.0, dec=30.0, extent=0.5, coarsest=0.5, finest=32.0, nebula=4.0),
    )
    side = int(SIZE * 1.8)
    canvas = Pointing(84.0, 30.0, 4.0, 0.0, 0.5 * (side - 1), 0.5 * (side - 1))
    grid = Grid(canvas.header(), (side, side), 256)
    factor = scoring.gauge(session, session.lights)
    cover = scoring._cover(session.lights, session, "L", grid, SUPERPIXEL, factor, 1.0)
    variance = scoring._upsample(cover.variance, grid.shape, SUPERPIXEL)
    sets = scoring._upsample(cover.sets, grid.shape, SUPERPIXEL)
    made = Perfect(session, grid, np.empty(0), variance, sets, factor)
    noise = np.random.default_rng(1).normal(size=grid.shape) * np.sqrt(variance)
    return Perfect(session, grid, made.sky(grid) + noise, variance, sets, factor)


def test_a_perfect_mosaic_has_no_error(perfect: Perfect) -> None:
    result = perfect.score()
    assert result.stars > 60
    assert abs(result.star_bias) < 0.0015
    assert result.star_ratio == pytest.approx(perfect.factor, rel=0.0015)
    assert np.abs(result.astrometry_bias).max() < 0.01
    assert result.astrometry_rms < 0.06
    assert result.sky_constant == pytest.approx(result.sky_noise, rel=0.1)
    assert result.seam_step < 0.5 * result.seam_noise
    assert result.noise_ratio == pytest.approx(1.0, abs=0.03)
    assert result.variance_ratio == pytest.approx(1.0, abs=0.03)
    assert result.outlier_fraction < 3e-5
    assert result.covered > 0.99
    assert "noise / ideal" in result.to_text()


def test_scale_error_is_reported(perfect: Perfect) -> None:
    assert perfect.score(1.01 * perfect.image).star_bias == pytest.approx(0.01, abs=0.0015)
    assert perfect.score(1.01 * perfect.image, factor=1.01 * perfect.factor).star_bias == pytest.approx(
        0.0, abs=0.0015
    )


def test_shift_is_reported(perfect: Perfect) -> None:
    middle = 0.5 * (perfect.grid.shape[0] - 1)
    moved = Pointing(84.0, 30.0, 4.0, 0.0, middle + 0.2, middle - 0.1)
    noise = perfect.image - perfect.sky(perfect.grid)
    image = perfect.sky(Grid(moved.header(), perfect.grid.shape, 256)) + noise
    result = perfect.score(image)
    assert result.astrometry_bias == pytest.approx((0.2, -0.1), abs=0.01)
    assert abs(result.star_bias) < 0.003


def test_long_waves_are_told_apart_by_order(perfect: Perfect) -> None:
    y, x = (np.linspace(-1, 1, n) for n in perfect.grid.shape)
    plane = 20.0 * x + 0.0 * y[:, None]
    bowl = 20.0 * (x * x + 0.0 * y[:, None])
    base = perfect.score()
    tilted, bent = perfect.score(perfect.image + plane), perfect.score(perfect.image + bowl)
    assert tilted.sky_constant == pytest.approx(np.hypot(20.0 / np.sqrt(3.0), base.sky_constant), rel=0.1)
    assert tilted.sky_plane == pytest.approx(base.sky_plane, rel=0.01)
    assert bent.sky_plane == pytest.approx(np.hypot(20.0 * np.sqrt(4.0 / 45.0), base.sky_plane), rel=0.15)
    assert bent.sky_quadratic == pytest.approx(base.sky_quadratic, rel=0.01)
    # Smooth errors are no seams.
    assert tilted.seam_step == pytest.approx(base.seam_step, abs=0.1)


def test_pedestal_is_no_error(perfect: Perfect) -> None:
    base, raised = perfect.score(), perfect.score(perfect.image + 1000.0)
    assert raised.sky_constant == pytest.approx(base.sky_constant, rel=1e-3)
    assert raised.star_bias == pytest.approx(base.star_bias, abs=1e-4)


def test_step_at_a_border_is_a_seam(perfect: Perfect) -> None:
    # Panels without dither: left, both and right along each axis, one step of 8 from each to the next.
    level = np.zeros(perfect.grid.shape)
    for number in np.unique(perfect.sets):
        place = perfect.sets == number
        level[place] = 8.0 * sum(
            int(np.digitize(np.mean(index) / size, [0.4, 0.6]))
            for index, size in zip(np.nonzero(place), perfect.grid.shape, strict=True)
        )
    result = perfect.score(perfect.image + level)
    assert result.borders > 80
    assert result.seam_step == pytest.approx(8.0, abs=1.5)
    assert abs(result.seam_worst) == pytest.approx(8.0, abs=4 * result.seam_worst_error)


def test_excess_noise_is_measured_through_correlation(perfect: Perfect) -> None:
    truth = perfect.sky(perfect.grid)
    noise = perfect.image - truth
    assert perfect.score(truth + 1.2 * noise).noise_ratio == pytest.approx(1.2, abs=0.04)
    # Smoothing lowers the pixels' rms but not what sums keep.
    smooth = 0.25 * (2 * noise + np.roll(noise, 1, 1) + np.roll(noise, -1, 1))
    assert np.std(smooth) < 0.7 * np.std(noise)
    assert perfect.score(truth + smooth).noise_ratio == pytest.approx(1.0, abs=0.07)


def test_cosmic_rays_left_are_counted(perfect: Perfect) -> None:
    random = np.random.default_rng(4)
    image = perfect.image.copy()
    y, x = random.integers(0, perfect.grid.shape[0], 400), random.integers(0, perfect.grid.shape[1], 400)
    image[y, x] += 500.0
    result = perfect.score(image)
    pixels = image.size
    assert result.outlier_fraction == pytest.approx(400 / pixels, rel=0.15)
    assert result.outlier_energy == pytest.approx(400 * 500.0 / pixels, rel=0.15)


def test_frames_left_out_change_gauge_and_ideal(perfect: Perfect) -> None:
    some = [f.index for f in perfect.session.lights if f.index % 2 == 0]
    result = perfect.score(frames=some)
    expected = np.exp(np.mean([np.log(perfect.session.lights[n].transparency) for n in some]))
    assert result.factor == pytest.approx(expected)
    assert result.noise_ratio < 0.85


def test_holes_and_zero_weight_are_no_data(perfect: Perfect) -> None:
    weight = np.ones(perfect.grid.shape)
    weight[:, :100] = 0.0
    image = perfect.image.copy()
    image[:, :100] = 0.0
    assert perfect.score(image, weight=weight).covered == pytest.approx(1 - 100 / weight.shape[1], abs=0.02)
    with pytest.raises(DataError, match="no frame of band 'R'"):
        perfect.score(band="R")


def test_command_line(perfect: Perfect, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = perfect.grid.wcs.to_header()
    fits.HDUList(
        [
            fits.PrimaryHDU(perfect.image.astype(np.float32), header),
            fits.ImageHDU(perfect.variance.astype(np.float32), header, name="VARIANCE"),
        ]
    ).writeto(tmp_path / "m.fits")
    (tmp_path / "truth.json").write_text(json.dumps(perfect.session.truth()))
    scoring.main([str(tmp_path / "m.fits"), str(tmp_path / "truth.json"), "--json"])
    out = json.loads(capsys.readouterr().out)
    assert out["noise_ratio"] == pytest.approx(1.0, abs=0.03)
    assert abs(out["star_bias"]) < 0.0015
