"""Calibrate: from raw frames with known truth through all of linking and masters to the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.calibration.calibrate import calibrate
from skyloom.ops.calibration.calibrated import COSMIC_RAY, HOT, SATURATED, CalibratedSource
from skyloom.ops.calibration.defects import defects
from skyloom.ops.calibration.flats import flats
from skyloom.ops.calibration.levels import levels
from skyloom.ops.calibration.link import link
from skyloom.ops.calibration.masters import masters
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.frames import open_source
from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.registry import get_op
from skyloom.ops.session.ingest import ingest
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.detector import dust_grains
from skyloom.ops.simulation.light import cosmic_charge
from skyloom.ops.simulation.readout import Truth
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel
from skyloom.ops.simulation.sources import session_table

CAMERA = Camera(
    height=256, width=320, vignetting=0.25, dust=6, response=0.01, dark=0.3, dark_pattern=0.3, hot_fraction=1e-3,
    cold_fraction=2e-4, seed=3,
)  # fmt: skip
PLAIN = SimulatedSession(
    seed=8, panels=(1, 1), frames=1, raw=True, trails=0.0, cosmic_rays=0.0, calibration_frames=6, camera=CAMERA,
    sky_level=8000.0, sky=SkyModel(seed=2, star_density=6000.0), wcs_error=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A session and all that its lights are calibrated with."""

    session: SimulatedSession
    table: xr.Dataset
    links: xr.Dataset
    results: dict[str, Any]

    def calibrate(self, **parameters: Any) -> xr.Dataset:
        return calibrate(self.table, self.links, **self.results, **parameters)

    def truth(self, name: str) -> Truth:
        return self.session.truth_of(self.index(name))

    def index(self, name: str) -> int:
        return int(self.table["name"].values.tolist().index(name))


@cache
def case(scale_darks: Any = "never", **changes: Any) -> Case:
    session = replace(PLAIN, **changes)
    table = session_table(session)
    links = link(table, scale_darks=scale_darks)
    made: dict[str, Any] = {"masters": done(masters(table, links))}
    made["levels"] = done(levels(table, links, made["masters"]))
    made["flats"] = done(flats(table, links, made["masters"], made["levels"]))
    made |= {"hot": done(defects(made["masters"])), "cold": done(defects(made["flats"]))}
    return Case(session, table, links, made)


def done(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.compute(scheduler="synchronous")


def opened(table: xr.Dataset, index: int = 0) -> CalibratedSource:
    source = open_source(str(table["source"].values[index]))
    assert isinstance(source, CalibratedSource)
    assert source.shape == (int(table["height"].values[index]), int(table["width"].values[index]))
    return source


def whole(source: CalibratedSource) -> tuple[slice, slice]:
    return slice(0, source.shape[0]), slice(0, source.shape[1])


def reduced_chi2(source: CalibratedSource, truth: Truth) -> float:
    """Of the pixels that have a value and lie where light falls."""
    window = whole(source)
    off = source.read(*window) - truth.image
    good = np.isfinite(off) & (truth.hot == 0) & (truth.flat > 0.5)
    assert good.mean() > 0.97
    return float(np.mean(off[good] ** 2 / source.variance(*window)[good]))


def facts(table: xr.Dataset, index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(str(table["facts"].values[index]))
    return found


# --- truth ---

SESSIONS: dict[str, dict[str, Any]] = {
    "a dark as long as the light": {},
    "two nights and filters": {
        "bands": ("L", "R"), "frames": 2, "nights": 2, "gains": (5.2, 2.6), "biases": (500.0, 640.0),
        "temperatures": (-10.0, -4.0), "sky_level": 4000.0, "exposures": (60.0, 90.0),
    },
    "faint": {"sky_level": 40.0},
    "pedestal": {"pedestal": 1000.0},
    "drift and overscan": {"camera": replace(CAMERA, overscan=24, drift=20.0)},
    "scaled darks": {"scale_darks": "always", "camera": replace(CAMERA, dark=2.0)},
    "colour sensor": {"camera": replace(CAMERA, bayer="GRBG"), "bands": ("CFA",)},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SESSIONS))
def test_calibrated_frames_equal_truth_within_their_noise(name: str) -> None:
    one = case(**SESSIONS[name])
    table = one.calibrate()
    assert table.sizes["frame"] == len(one.session.lights)
    chi2 = [reduced_chi2(opened(table, i), one.truth(str(n))) for i, n in enumerate(table["name"].values)]
    # 80 000 pixels a frame: ±0.005 by chance.
    assert np.mean(chi2) == pytest.approx(1.0, abs=0.02)
    assert np.ptp(chi2) < 0.03


def test_dust_is_gone() -> None:
    one = case()
    source, truth = opened(one.calibrate()), one.truth("light_r0c0_L_n0_000.fits")
    ratio = source.read(*whole(source)) / truth.image
    ratio[truth.hot > 0] = np.nan
    y, x = np.mgrid[: source.shape[0], : source.shape[1]]
    frame = one.session.lights[0]
    shadows = 0
    for gx, gy, size, depth in dust_grains(frame.camera, frame.exposure.optics):
        shadow = abs(np.hypot(x - gx, y - gy) / size - 0.8) < 0.4
        if shadow.sum() < 60 or depth < 0.03:
            continue
        shadows += 1
        assert np.nanmean(ratio[shadow]) == pytest.approx(1.0, abs=2e-3)
    assert shadows >= 3


def test_hot_and_cold_pixels_are_gone() -> None:
    one = case(sky_level=500.0)
    truth = one.truth("light_r0c0_L_n0_000.fits")
    hot = truth.hot > 5 * np.sqrt(truth.variance) * truth.flat
    cold = truth.flat < 0.45
    assert hot.sum() > 30
    assert cold.sum() > 5
    source = opened(one.calibrate())
    assert np.isnan(source.read(*whole(source))[hot | cold]).all()
    assert (source.flags(*whole(source))[hot] & HOT).all()
    for kind, parameters in ((hot, {"cold_pixels": False}), (cold, {"hot_pixels": False})):
        other = cold & ~hot if kind is hot else hot & ~cold
        pixels = opened(one.calibrate(**parameters)).read(*whole(source))
        assert np.isnan(pixels[kind]).all()
        assert np.isfinite(pixels[other]).mean() > 0.5
    kept = opened(one.calibrate(hot_pixels=False, cold_pixels=False))
    pixels = kept.read(*whole(kept))
    assert np.isfinite(pixels).mean() > 0.999
    # The dark takes their charge off: only its noise stays.
    assert np.nanmedian(abs(pixels - truth.image)[hot] / np.sqrt(truth.variance)[hot]) < 2


def test_saturated_pixels() -> None:
    one = case(camera=replace(CAMERA, saturation=9000.0))
    index = one.index("light_r0c0_L_n0_000.fits")
    raw = one.session.render(index)
    assert 10 < (raw >= 9000).sum() < 2000
    table = one.calibrate()
    assert math.isnan(table["saturation"].values[0])
    pixels = opened(table).read(*whole(opened(table)))
    assert np.isnan(pixels[raw >= 9000]).all()
    kept = opened(one.calibrate(saturated="keep"))
    assert np.isfinite(kept.read(*whole(kept))).mean() > 0.995
    bad = (kept.flags(*whole(kept)) & ~np.uint8(SATURATED)) > 0
    assert np.isfinite(kept.read(*whole(kept))[(raw >= 9000) & ~bad]).all()


def test_cosmic_rays_of_single_frames() -> None:
    one = case(cosmic_rays=300.0, sky_level=500.0)
    frame = one.session.lights[0]
    charge = cosmic_charge(frame.camera, frame.exposure, *(slice(0, n) for n in (256, 320))) / frame.camera.gain
    source = opened(one.calibrate(cosmic_rays="lacosmic"))
    window = whole(source)
    truth = one.truth("light_r0c0_L_n0_000.fits")
    planted = (charge > 8 * np.sqrt(truth.variance)) & (truth.hot == 0) & np.isfinite(truth.image)
    flagged = (source.flags(*window) & COSMIC_RAY) > 0
    assert planted.sum() > 30
    assert flagged[planted].mean() > 0.95
    assert (flagged & (charge == 0)).sum() < 10
    assert np.isnan(source.read(*window)[flagged]).all()
    # Without them the frame is what it would have been, but for the faintest.
    assert reduced_chi2(source, truth) < 1.1
    assert reduced_chi2(opened(one.calibrate()), truth) > 1.3


# --- the table ---


def test_columns_of_a_trimmed_session() -> None:
    camera = replace(CAMERA, overscan=24, drift=20.0)
    one = case(camera=camera)
    table = one.calibrate()
    raw = one.table.isel(frame=one.index(str(table["name"].values[0])))
    assert (int(raw["width"]), int(table["width"].values[0])) == (344, 320)
    for name, expected in {"trim": "", "overscan": "", "pedestal": 0.0, "kind": "light", "bayer": ""}.items():
        assert table[name].values[0] == expected
    before = pixel_to_sky(parse_wcs(str(raw["wcs"].values)), np.array([24.0, 100.0]), np.array([0.0, 50.0]))
    after = pixel_to_sky(parse_wcs(str(table["wcs"].values[0])), np.array([0.0, 76.0]), np.array([0.0, 50.0]))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-11)
    assert facts(table)["calibrated"] == [
        "dark 120 s, −10 °C, gain 192, 6 frames; flat L, 2026-01-10, gain 192, 6 frames; overscan by row",
        "calibrate",
    ]
    untrimmed = one.calibrate(trim=False, overscan="none")
    assert int(untrimmed["width"].values[0]) == 344
    frame = opened(one.calibrate(overscan="frame"))
    by_row = opened(table).read(*whole(frame))
    assert 0 < np.nanstd(by_row - frame.read(*whole(frame))) < 2


def test_a_bayer_pattern_turns_with_the_trim() -> None:
    one = case(camera=replace(CAMERA, bayer="GRBG"), bands=("CFA",))
    table = one.table.assign(trim=("frame", np.full(one.table.sizes["frame"], "[2:319,4:256]")))
    found = calibrate(table, one.links, **one.results)
    assert found["bayer"].values[0] == "GBRG"
    assert opened(found).shape == (253, 318)
    assert one.calibrate()["bayer"].values[0] == "GRBG"


def test_sections_that_do_not_lie_within_the_frame_are_noted() -> None:
    one = case()
    count = one.table.sizes["frame"]
    table = one.table.assign(
        trim=("frame", np.full(count, "[1:900,1:256]")), overscan=("frame", np.full(count, "[0:0,0:0]"))
    )
    found = calibrate(table, one.links, **one.results)
    assert int(found["width"].values[0]) == 320
    assert facts(found)["notes"][0] == [
        "trim section [1:900,1:256] is not within 320 × 256 pixels: not trimmed",
        "overscan section [0:0,0:0] is not within 320 × 256 pixels: not used",
    ]


def test_masters_that_are_not_given_are_not_applied() -> None:
    one = case()
    index = one.index("light_r0c0_L_n0_000.fits")
    raw = one.session.render(index).astype(np.float32)
    table = calibrate(one.table, one.links, saturated="keep")
    np.testing.assert_array_equal(opened(table).read(slice(0, 256), slice(0, 320)), raw)
    assert facts(table)["calibrated"] == ["as it is", "calibrate"]
    assert table["saturation"].values[0] == one.table["saturation"].values[index]
    only = calibrate(one.table, one.links, one.results["masters"])
    dark = one.results["masters"]["image"].sel(master=one.results["masters"]["kind"].values == "dark").values[0]
    np.testing.assert_array_equal(opened(only).read(slice(0, 256), slice(0, 320)), raw - dark)
    assert only.attrs["source_bytes"] == 8
    assert one.calibrate(cosmic_rays="lacosmic").attrs["source_bytes"] == 9


def test_names_of_frames_follow_what_decides_their_pixels() -> None:
    one = case()
    names = [
        str(one.calibrate(**p)["frame"].values[0]) for p in ({}, {}, {"saturated": "keep"}, {"hot_pixels": False})
    ]
    names.append(str(one.calibrate(cosmic_rays="lacosmic")["frame"].values[0]))
    names.append(str(calibrate(one.table, one.links, one.results["masters"])["frame"].values[0]))
    regrouped = one.links.assign_coords(group=[f"{g}0" for g in one.links["group"].values])
    names.append(str(calibrate(one.table, regrouped, **one.results)["frame"].values[0]))
    signed = one.results["masters"].assign_attrs(
        provenance='[{"op": "masters", "parameters": {"low": 3}, "key": "1"}]'
    )
    again = one.results["masters"].assign_attrs(
        provenance='[{"op": "masters", "parameters": {"low": 3}, "key": "2"}]'
    )
    for changed in (signed, again):
        names.append(
            str(calibrate(one.table, one.links, **{**one.results, "masters": changed})["frame"].values[0])
        )
    assert all(len(n) == 16 for n in names)
    assert names[0] == names[1]
    assert names[-1] == names[-2]  # other lights have come: the same masters
    assert len(set(names)) == len(names) - 2
    assert names[0] != str(one.table["frame"].values[one.index("light_r0c0_L_n0_000.fits")])
    # Where a file lies, and what it is called, does not matter.
    moved = one.table.assign(name=("frame", [f"new{i}" for i in range(one.table.sizes["frame"])]))
    assert str(calibrate(moved, one.links, **one.results)["frame"].values[0]) == names[0]


def test_lights_that_are_left_out_have_their_reason() -> None:
    one = case(**SESSIONS["two nights and filters"])
    use, reason = one.links["use"].values.copy(), one.links["reason"].values.astype("<U80")
    lost = one.index("light_r0c0_R_n1_001.fits")
    use[lost], reason[lost] = False, "no flat of its filter"
    links = one.links.assign(use=("frame", use), reason=("frame", reason))
    table = calibrate(one.table.assign_attrs(left_out='[["z.txt", "no frame"]]'), links, **one.results)
    assert table.sizes["frame"] == 3
    assert json.loads(table.attrs["left_out"]) == [
        ["light_r0c0_R_n1_001.fits", "no flat of its filter"],
        ["z.txt", "no frame"],
    ]
    # Masters of another size: one camera's, that got into the links by hand.
    small = one.results["flats"].assign(width=one.results["flats"]["width"] - 2)
    with pytest.raises(
        DataError, match=r"no light to calibrate \(light_r0c0_L_n0_000.fits: the master of flat L.* is 318 × 256"
    ):
        calibrate(one.table, one.links, **{**one.results, "flats": small})
    none = one.results["masters"].isel(master=[])
    with pytest.raises(DataError, match=r"there is no master of dark .*, which is linked to it"):
        calibrate(one.table, one.links, none)


def test_scaled_darks_need_levels() -> None:
    one = case(**SESSIONS["scaled darks"])
    assert "scaled" in facts(one.calibrate())["calibrated"][0]
    with pytest.raises(
        ConfigError, match=r"the dark of light.* is to be scaled \(`link`\): give calibrate the node `levels`"
    ):
        calibrate(one.table, one.links, one.results["masters"])


def test_pedestals_that_are_not_to_be_honoured() -> None:
    one = case(pedestal=1000.0)
    with_it, without = (opened(one.calibrate(pedestal=p)) for p in ("header", "none"))
    window = slice(50, 60), slice(50, 60)
    difference = without.read(*window) - with_it.read(*window)
    assert np.nanmean(difference) == pytest.approx(1000.0, rel=0.2)


def test_a_given_master_that_is_trimmed_already() -> None:
    one = case(camera=replace(CAMERA, overscan=24))
    trimmed = {
        name: one.results[name].isel(x=slice(24, None)).assign(width=one.results[name]["width"] - 24)
        for name in ("masters", "flats")
    }
    # Such a master has no overscan left, and nobody takes its level off a second time.
    found = opened(calibrate(one.table, one.links, **trimmed, overscan="none"))
    expected = opened(
        calibrate(one.table, one.links, one.results["masters"], one.results["flats"], overscan="none")
    )
    np.testing.assert_array_equal(found.read(*whole(found)), expected.read(*whole(found)))
    by_row = opened(calibrate(one.table, one.links, trimmed["masters"]))
    not_at_all = opened(calibrate(one.table, one.links, trimmed["masters"], overscan="none"))
    level = not_at_all.read(*whole(found)) - by_row.read(*whole(found))
    np.testing.assert_allclose(level, np.broadcast_to(level[:, :1], level.shape), atol=2e-3)
    assert abs(level.mean() - CAMERA.bias) < 5


def test_a_real_night(shared_data: Callable[[str], Path]) -> None:
    """Near-infrared frames with dead clusters, without types and gains in their headers."""
    table = ingest(shared_data("ic310_dfot_bias_flat"), take="all")
    links = link(table, on_broken="without")
    made: dict[str, Any] = {"masters": done(masters(table, links))}
    made["levels"] = done(levels(table, links, made["masters"]))
    made["flats"] = done(flats(table, links, made["masters"], made["levels"]))
    made |= {"hot": done(defects(made["masters"])), "cold": done(defects(made["flats"]))}
    found = calibrate(table, links, **made)
    assert found.sizes["frame"] == 5
    bias = made["masters"]["image"].values[0]

    def uneven(pixels: np.ndarray) -> float:
        middle = float(np.nanmedian(pixels))
        return 1.4826 * float(np.nanmedian(abs(pixels - middle))) / middle

    for i, name in enumerate(found["name"].values.tolist()):
        source = opened(found, i)
        raw = open_source(str(table["source"].values[table["name"].values.tolist().index(name)])).read(
            *whole(source)
        )
        pixels = source.read(*whole(source))
        assert uneven(pixels) < 0.2 * uneven(raw - bias)
        assert 0.9 < np.isfinite(pixels).mean() < 1.0
        assert np.isnan(source.variance(*whole(source))).all()  # no gain


def test_is_an_op_without_pixels() -> None:
    op = get_op("calibrate")
    assert op.table
    assert op.inputs == ("session", "links", "masters", "flats", "levels", "hot", "cold")
    assert op.optional_inputs == ("masters", "flats", "levels", "hot", "cold")
    assert op.check({})["overscan"] == "row"
