"""The session: a value from which everything follows."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from skyloom.ops.errors import ConfigError
from skyloom.ops.frames import open_source
from skyloom.ops.grid import parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.simulate import (
    SimulatedSession,
    acceptance_session,
    demo_session,
    frame_spec,
    session_table,
)
from skyloom.ops.simulation.sky import SkyModel


def small(**changes: object) -> SimulatedSession:
    values: dict[str, object] = {
        "seed": 5,
        "panels": (2, 3),
        "frames": 2,
        "pixel_scale": 6.0,
        "dither": 3.0,
        "camera": Camera(height=96, width=128),
        "sky": SkyModel(seed=5, ra=0.02, dec=60.0, finest=48.0, extent=0.3),
    }
    return SimulatedSession(**(values | changes))  # type: ignore[arg-type]


def test_a_session_survives_json() -> None:
    session = small(bands=("R", "G"), nights=2, gains=(5.2, 1.3), raw=True)
    again = SimulatedSession.from_dict(json.loads(json.dumps(session.to_dict())))
    assert again == session
    assert np.array_equal(again.render(7), session.render(7))
    truth = json.loads(json.dumps(session.truth()))
    assert SimulatedSession.from_dict(truth["session"]) == session
    with pytest.raises(ConfigError, match="no parameter 'pannels'"):
        SimulatedSession.from_dict({"pannels": [1, 1]})


def test_frames_do_not_depend_on_their_order() -> None:
    first, second = small(), small()
    forward = [first.render(k) for k in range(4)]
    backward = [second.render(k) for k in reversed(range(4))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(forward[0], forward[1])


def test_true_position_is_header_position_plus_shift() -> None:
    session = small(wcs_error=3.0)
    for frame, row in zip(session.lights, session.truth()["frames"], strict=True):
        ra, dec = pixel_to_sky(parse_wcs(row["wcs"]), np.array([40.0]), np.array([30.0]))
        x, y = sky_to_pixel(parse_wcs(row["header_wcs"]), ra, dec)
        assert (x[0] + frame.shift[0], y[0] + frame.shift[1]) == pytest.approx((40.0, 30.0), abs=1e-6)
        assert row["shift"] == list(frame.shift)
    assert np.std([f.shift for f in session.lights]) == pytest.approx(3.0, rel=0.5)


def test_panels_overlap_by_the_fraction() -> None:
    session = small(dither=0.0, rotation_jitter=0.0, rotation=25.0, overlap=0.25)
    frames = {f.panel: f for f in session.lights}
    middle = (np.array([63.5]), np.array([47.5]))
    left = parse_wcs(frames[0, 0].wcs.header())  # type: ignore[union-attr]
    for panel, expected in (((0, 1), (0.75 * 128, 0.0)), ((1, 0), (0.0, 0.75 * 96))):
        ra, dec = pixel_to_sky(parse_wcs(frames[panel].wcs.header()), *middle)  # type: ignore[union-attr]
        x, y = sky_to_pixel(left, ra, dec)
        assert (x[0] - 63.5, y[0] - 47.5) == pytest.approx(expected, abs=0.2)


def test_meridian_flip_turns_the_frame_and_keeps_the_sky() -> None:
    session = small(flip=True, dither=0.0, rotation_jitter=0.0, panels=(1, 1), frames=2)
    one, two = session.lights
    ra, dec = pixel_to_sky(parse_wcs(one.wcs.header()), np.array([0.0]), np.array([0.0]))  # type: ignore[union-attr]
    x, y = sky_to_pixel(parse_wcs(two.wcs.header()), ra, dec)  # type: ignore[union-attr]
    assert (x[0], y[0]) == pytest.approx((127.0, 95.0), abs=1e-4)


def test_parameters_stay_in_their_ranges() -> None:
    session = acceptance_session()
    frames = session.lights
    assert len(frames) == len(session) == 36
    assert len({f.name for f in frames}) == 36
    assert [f.date for f in frames] == sorted(f.date for f in frames)
    t = np.array([f.transparency for f in frames])
    assert t.min() >= 0.7
    assert t.max() <= 1.05
    assert np.ptp(t) > 0.25
    slopes = [np.hypot(*f.exposure.background.linear) for f in frames]
    assert 0.19 < min(slopes) < max(slopes) <= 0.25
    assert max(np.abs(f.exposure.background.quadratic).max() for f in frames) <= 0.2
    assert np.mean([f.noise for f in frames]) == pytest.approx(14.0, abs=0.5)
    assert 2 <= sum(f.exposure.trail > 0 for f in frames) <= 12


def test_acceptance_frame_looks_as_promised() -> None:
    session = acceptance_session()
    image = session.render(4, rows=slice(900, 1200), columns=slice(0, 2048)).astype(np.float64)
    difference = np.diff(image, axis=1) / np.sqrt(2.0)
    noise = 1.4826 * np.median(np.abs(difference - np.median(difference)))
    assert noise == pytest.approx(14.0, abs=1.5)
    assert 800 < np.median(image) < 1400


def test_nebula_covers_the_acceptance_field() -> None:
    session = acceptance_session()
    offset = np.linspace(-1.4, 1.4, 60)
    ra, dec = np.meshgrid(84.0 + offset / np.cos(np.radians(30.0)), 30.0 + offset)
    light = session.sky.brightness(ra, dec, "L") * session.pixel_scale**2
    assert np.mean(light > 5.0) > 0.5
    assert 10.0 < light.std() < 120.0


def test_units_change_with_the_gain() -> None:
    session = small(nights=2, frames=2, gains=(4.0, 2.0), camera=Camera(height=96, width=128, gain=4.0))
    for frame in session.lights:
        unit = {0: 1.0, 1: 2.0}[frame.night]
        assert frame.exposure.scale == pytest.approx(unit * frame.transparency)
        assert frame.exposure.background.level / (1000.0 * unit) == pytest.approx(1.0, abs=0.101)
        assert session.header(frame.index)["EGAIN"] == 4.0 / unit


def test_raw_sessions_bring_their_calibration_frames() -> None:
    session = demo_session(panels=(1, 1), calibration_frames=2)
    kinds = [f.kind for f in session.descriptors()]
    assert kinds.count("light") == 16
    assert kinds.count("bias") == kinds.count("dark") == 2
    assert kinds.count("flat") == 2 * 4 * 2
    by_kind = {f.kind: f.index for f in session.descriptors()}
    window = {"rows": slice(0, 60), "columns": slice(0, 80)}
    assert session.render(by_kind["bias"], **window).mean() == pytest.approx(500.0, abs=1.0)
    assert session.render(by_kind["dark"], **window).mean() > 500.5
    assert session.render(by_kind["flat"], **window).mean() > 15000
    header = session.header(by_kind["flat"])
    assert header["IMAGETYP"] == "FLAT"
    assert header["FILTER"] == "B"
    assert "CRVAL1" not in header


def test_a_frame_is_a_source_without_a_file() -> None:
    session = small()
    source = open_source(frame_spec(session, 3))
    assert source.shape == (96, 128)
    assert source.windowed
    pixels = pickle.loads(pickle.dumps(source)).read(slice(10, 50), slice(100, 128))
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.array_equal(pixels, session.render(3)[10:50, 100:128])


def test_session_table_is_what_ingest_gives() -> None:
    session = small()
    table = session_table(session)
    assert table.sizes["frame"] == 12
    assert len(set(table["frame"].values)) == 12
    assert set(table["frame"].values).isdisjoint(session_table(small(seed=6))["frame"].values)
    source = open_source(str(table["source"].values[2]))
    assert np.array_equal(source.read(slice(0, 96), slice(0, 128)), session.render(2))
    assert parse_wcs(str(table["wcs"].values[2])).has_celestial
    assert table["gain"].values[0] == 5.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panels": (0, 1)}, "at least one panel"),
        ({"overlap": 1.0}, "overlap"),
        ({"bands": ("Q",)}, "no band 'Q'"),
        ({"bands": ("CFA",)}, "colour sensor"),
    ],
)
def test_impossible_sessions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**changes)
