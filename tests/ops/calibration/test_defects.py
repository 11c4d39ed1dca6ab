"""Maps of bad pixels: what was planted is found, and nothing else is."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from skyloom.ops.calibration.defects import (
    COLD,
    HOT,
    dark_defects,
    defects,
    flat_defects,
    single_frame_noise,
    usual,
)
from skyloom.ops.calibration.flats import flats
from skyloom.ops.calibration.levels import levels
from skyloom.ops.calibration.link import link
from skyloom.ops.calibration.masters import masters
from skyloom.ops.registry import get_op
from skyloom.ops.session.ingest import ingest

_path = Path(__file__).with_name("simulated.py")
_spec = importlib.util.spec_from_file_location("skyloom_simulated_masters", _path)
assert _spec is not None
assert _spec.loader is not None
simulated: Any = sys.modules.get(_spec.name) or importlib.util.module_from_spec(_spec)
if _spec.name not in sys.modules:
    sys.modules[_spec.name] = simulated
    _spec.loader.exec_module(simulated)
SHAPE = (400, 520)


def done(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.compute(scheduler="synchronous")


def dark(seed: int = 1, noise: float = 1.0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return (500.0 + random.normal(0.0, noise, SHAPE)).astype(np.float32)


def flat(seed: int = 1) -> NDArray[np.float32]:
    """Vignetting of 40 %, response of 1 %, and a dust ring 12 % deep, 12 px across its edge."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    corner = ((y - 200) ** 2 + (x - 260) ** 2) / (200**2 + 260**2)
    ring = 1.0 - 0.12 * np.exp(-((np.hypot(y - 150, x - 300) / 25.0 - 0.8) ** 2) * 12)
    light = (1.0 - 0.4 * corner) * ring * (1 + 0.01 * random.normal(size=SHAPE))
    return np.asarray(light, np.float32)


# --- simulated sessions ---


@pytest.fixture(scope="module")
def session() -> Any:
    return simulated.made(
        simulated.session_of(camera={"hot_fraction": 5e-3, "cold_fraction": 2e-3, "height": 400}, cosmic_rays=40.0)
    )


@pytest.fixture(scope="module")
def stacked(session: Any) -> xr.Dataset:
    return done(masters(session.table, session.links))


def test_hot_pixels_of_a_session(session: Any, stacked: xr.Dataset) -> None:
    place = stacked["kind"].values.tolist().index("dark")
    bad = done(defects(stacked)).bad[place].values
    truth = session.truth("dark")
    noise = np.sqrt(106.0 / 5.2**2 + 1 / 12)
    # Ten times the noise of a frame (bias columns differ by as much) is the limit.
    clear = truth.hot > 12.5 * noise
    assert clear.sum() > 500
    assert (bad[clear] & HOT).mean() == 1.0
    assert (truth.hot[bad == HOT] > 7.5 * noise).all()
    assert (bad == COLD).sum() == 0
    bias = done(defects(stacked)).bad[1 - place].values
    assert bias.sum() == 0


def test_dead_pixels_of_a_session(session: Any, stacked: xr.Dataset) -> None:
    known = done(levels(session.table, session.links, stacked))
    made = done(flats(session.table, session.links, stacked, known))
    bad = done(defects(made)).bad[0].values
    truth = session.truth("flat").flat
    relative = truth / median_filter(truth, 9)
    assert (relative < 0.48).sum() > 150
    assert (bad[relative < 0.48] == COLD).all()
    # Dust, vignetting and pixels of another response are no defects.
    assert (relative[bad > 0] < 0.52).all()


# --- what is no defect ---


def glow(y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Of an amplifier beside the corner."""
    return np.asarray(2000.0 * np.exp(-np.hypot(y + 20, x + 20) / 80.0))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_amplifier_glow_is_not_flagged(seed: int) -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = glow(y, x)
    image = dark(seed) + (light + np.random.default_rng(seed).normal(size=SHAPE) * np.sqrt(light / 10)).astype(
        np.float32
    )
    image[5::40, 5::40] += np.float32(400.0)
    bad = dark_defects(image, 3.0, hot_sigma=10.0, cold_sigma=5.0)
    planted = np.zeros(SHAPE, bool)
    planted[5::40, 5::40] = True
    assert (bad[planted] == HOT).mean() > 0.97
    assert (bad[~planted] > 0).sum() == 0


def test_vignetting_and_dust_are_not_flagged() -> None:
    assert not flat_defects(flat(), cold_sigma=5.0, dead_fraction=0.5).any()
    assert not flat_defects(flat(), cold_sigma=5.0, dead_fraction=0.8).any()


def test_noise_is_not_flagged() -> None:
    for seed in range(4):
        assert dark_defects(dark(seed), 0.0, hot_sigma=10.0, cold_sigma=6.0).sum() == 0


def test_colour_filters_are_not_flagged() -> None:
    """Phases of a colour filter array (or rows read by two amplifiers) have their own levels."""
    image = flat()
    for k, level in enumerate((0.4, 1.0, 0.9, 2.3)):
        image[k // 2 :: 2, k % 2 :: 2] *= np.float32(level)
    image[100:300:7, 50:500:9] *= np.float32(0.3)
    bad = flat_defects(image, cold_sigma=5.0, dead_fraction=0.5)
    planted = np.zeros(SHAPE, bool)
    planted[100:300:7, 50:500:9] = True
    np.testing.assert_array_equal(bad == COLD, planted)
    raised = dark()
    raised[::2] += 300
    assert not dark_defects(raised, 0.0, hot_sigma=10.0, cold_sigma=6.0).any()


# --- what is ---


@pytest.mark.parametrize("radius", [2, 8, 20, 36])
def test_dead_clusters_are_found_whole(radius: int) -> None:
    image = flat()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    cluster = (y - 230) ** 2 + (x - 160) ** 2 <= radius**2
    image[cluster] *= np.float32(0.1)
    bad = flat_defects(image, cold_sigma=5.0, dead_fraction=0.5)
    np.testing.assert_array_equal(bad == COLD, cluster)


def test_dead_columns_and_no_data() -> None:
    image = flat()
    image[:, 77] *= np.float32(0.2)
    image[10, 10] = np.nan
    image[300, 300] *= np.float32(3.0)
    image[350, 350] *= np.float32(0.7)
    bad = flat_defects(image, cold_sigma=5.0, dead_fraction=0.5)
    assert (bad[:, 77] == COLD).all()
    assert bad[10, 10] == COLD
    assert bad[300, 300] == HOT
    assert bad[350, 350] == COLD
    assert (bad > 0).sum() == SHAPE[0] + 3
    image = dark()
    image[10, 10] = np.nan
    image[20, 20] -= np.float32(30.0)
    bad = dark_defects(image, 2.0, hot_sigma=10.0, cold_sigma=5.0)
    assert (bad[10, 10], bad[20, 20], int((bad > 0).sum())) == (HOT, COLD, 2)


def test_limits_are_those_asked_for() -> None:
    image = dark(noise=1.0)
    image[200, 100:110] = 500 + np.arange(2, 22, 2)
    for sigma in (5.0, 9.0, 15.0):
        bad = dark_defects(image, 0.0, hot_sigma=sigma, cold_sigma=50.0)[200, 100:110]
        np.testing.assert_array_equal(bad == HOT, np.arange(2, 22, 2) > sigma)
    # Below the noise of a single frame a pixel is as good as any.
    assert not dark_defects(image, 4.0, hot_sigma=5.0, cold_sigma=50.0).any()


def test_usual_levels_equal_plain_medians() -> None:
    image = dark()
    level, width = usual(image)
    assert level.shape == (4, 6, 8)
    cell = image[0 : 400 // 6, 0 : 520 // 8][1::2, 0::2]
    ordered = np.sort(cell.ravel())
    assert level[2, 0, 0] == pytest.approx(ordered[ordered.size // 2])
    assert width[2, 0, 0] == pytest.approx(1.0, rel=0.2)


def test_noise_of_a_single_frame() -> None:
    variance = np.full((4, 4), 0.4, np.float32)
    variance[0, 0] = np.nan
    assert single_frame_noise(variance, np.full((4, 4), 10, np.uint16)) == pytest.approx(2.0)
    assert single_frame_noise(variance * 0, np.ones((4, 4), np.uint16)) == 0.0
    assert single_frame_noise(variance, np.zeros((4, 4), np.uint16)) == 0.0


# --- how the work is cut ---


def test_chunks_do_not_show_and_nothing_is_computed_early(session: Any, stacked: xr.Dataset) -> None:
    made = defects(stacked)
    assert made.bad.chunks == ((1, 1), (400,), (340,))
    whole = done(made)
    for rows in (64, 256, 400):
        xr.testing.assert_identical(done(defects(stacked.chunk({"master": 1, "y": rows}))), whole)
    simulated.READS.clear()
    lazy = defects(masters(session.table, session.links))
    assert not simulated.READS
    xr.testing.assert_identical(done(lazy), whole)
    assert defects(stacked, hot_sigma=20.0).bad.data.name != made.bad.data.name
    cost = get_op("defects").cost
    assert cost is not None
    assert cost(stacked).work == pytest.approx(400 * 340 / 1e6)


def test_padding_is_good(stacked: xr.Dataset) -> None:
    padded = stacked.pad(y=(0, 30), x=(0, 20), constant_values={"image": np.nan, "variance": np.nan})
    bad = done(defects(padded)).bad
    np.testing.assert_array_equal(bad[:, :400, :340], done(defects(stacked)).bad)
    assert not bad[:, 400:].any()
    assert not bad[:, :, 340:].any()


def test_tiny_and_empty_masters(stacked: xr.Dataset) -> None:
    tiny = stacked.isel(y=slice(0, 3), x=slice(0, 5))
    tiny = tiny.assign(height=("master", [3, 3]), width=("master", [5, 5]))
    assert done(defects(tiny)).bad.shape == (2, 3, 5)
    blind = tiny.assign(image=tiny.image * np.float32(np.nan))
    assert (done(defects(blind)).bad == HOT).all()
    assert defects(stacked.isel(master=slice(0, 0))).bad.shape == (0, 400, 340)


# --- a real detector ---


def test_dead_clusters_of_a_real_detector(shared_data: Callable[[str], Path]) -> None:
    """A near-infrared array: an unlit band, a crack, a blob; rows read in two ways; flats of little light."""
    session = ingest([shared_data("ic310_dfot_bias_flat")], take="all")
    links = link(session, on_broken="without")
    links = links.assign(used=("group", np.ones(links.sizes["group"], bool)))
    made = done(masters(session, links))
    known = done(levels(session, links, made))
    assert (known.status == 0).all()
    flat = done(flats(session, links, made, known))
    image, bad = flat.image[0].values, done(defects(flat)).bad[0].values
    assert np.median(image[40:, 10:-10]) == pytest.approx(1.0, abs=0.2)
    assert (bad[:15] == COLD).mean() > 0.95
    assert (bad[110:130, 345:370] > 0).mean() > 0.3
    # Elsewhere few pixels are bad.
    assert (bad[250:420, 10:-10] > 0).mean() < 2e-3
