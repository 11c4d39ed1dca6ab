"""The session: a value from which everything follows."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.presets import raw_conditions, second_rig
from skyloom.ops.simulation.session import SimulatedSession

Small = Callable[..., SimulatedSession]


def test_a_session_survives_json(small: Small) -> None:
    session = small(bands=("R", "G"), nights=2, gains=(5.2, 1.3), raw=True)
    again = SimulatedSession.from_dict(json.loads(json.dumps(session.to_dict())))
    assert again == session
    assert np.array_equal(again.render(7), session.render(7))
    truth = json.loads(json.dumps(session.truth()))
    assert SimulatedSession.from_dict(truth["session"]) == session
    with pytest.raises(ConfigError, match="no parameter 'pannels'"):
        SimulatedSession.from_dict({"pannels": [1, 1]})


def test_frames_do_not_depend_on_their_order(small: Small) -> None:
    first, second = small(), small()
    forward = [first.render(k) for k in range(4)]
    backward = [second.render(k) for k in reversed(range(4))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(forward[0], forward[1])


def test_true_position_is_header_position_plus_shift(small: Small) -> None:
    session = small(wcs_error=3.0)
    for frame, row in zip(session.lights, session.truth()["frames"], strict=True):
        ra, dec = pixel_to_sky(parse_wcs(row["wcs"]), np.array([40.0]), np.array([30.0]))
        x, y = sky_to_pixel(parse_wcs(row["header_wcs"]), ra, dec)
        assert (x[0] + frame.shift[0], y[0] + frame.shift[1]) == pytest.approx((40.0, 30.0), abs=1e-6)
        assert row["shift"] == list(frame.shift)
    assert np.std([f.shift for f in session.lights]) == pytest.approx(3.0, rel=0.5)


def test_panels_overlap_by_the_fraction(small: Small) -> None:
    session = small(dither=0.0, rotation_jitter=0.0, rotation=25.0, overlap=0.25)
    frames = {f.panel: f for f in session.lights}
    middle = (np.array([63.5]), np.array([47.5]))
    left = parse_wcs(frames[0, 0].wcs.header())  # type: ignore[union-attr]
    for panel, expected in (((0, 1), (0.75 * 128, 0.0)), ((1, 0), (0.0, 0.75 * 96))):
        ra, dec = pixel_to_sky(parse_wcs(frames[panel].wcs.header()), *middle)  # type: ignore[union-attr]
        x, y = sky_to_pixel(left, ra, dec)
        assert (x[0] - 63.5, y[0] - 47.5) == pytest.approx(expected, abs=0.2)


def test_meridian_flip_turns_the_frame_and_keeps_the_sky(small: Small) -> None:
    session = small(flip=True, dither=0.0, rotation_jitter=0.0, panels=(1, 1), frames=2)
    one, two = session.lights
    ra, dec = pixel_to_sky(parse_wcs(one.wcs.header()), np.array([0.0]), np.array([0.0]))  # type: ignore[union-attr]
    x, y = sky_to_pixel(parse_wcs(two.wcs.header()), ra, dec)  # type: ignore[union-attr]
    assert (x[0], y[0]) == pytest.approx((127.0, 95.0), abs=1e-4)


def test_units_change_with_the_gain(small: Small) -> None:
    session = small(nights=2, frames=2, gains=(4.0, 2.0), camera=Camera(height=96, width=128, gain=4.0))
    for frame in session.lights:
        unit = {0: 1.0, 1: 2.0}[frame.night]
        assert frame.exposure.scale == pytest.approx(unit * frame.transparency)
        assert frame.exposure.background.level / (1000.0 * unit) == pytest.approx(1.0, abs=0.101)
        assert session.header(frame.index)["EGAIN"] == 4.0 / unit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panels": (0, 1)}, "at least one panel"),
        ({"overlap": 1.0}, "overlap"),
        ({"bands": ("Q",)}, "no band 'Q'"),
        ({"bands": ("CFA",)}, "colour sensor"),
        ({"exposures": (60.0, 30.0)}, "one exposure a band"),
        ({"dialect": "voyager"}, "no dialect 'voyager'"),
        ({"layout": "tidy"}, "no layout 'tidy'"),
        ({"faults": ("twin",)}, "raw sessions only"),
        ({"faults": ("typo",), "raw": True}, "no fault 'typo'"),
        ({"faults": ("odd-size",), "raw": True, "panels": (1, 1)}, "too few to spoil"),
    ],
)
def test_impossible_sessions_are_refused(small: Small, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def test_nights_differ_in_gain_bias_and_temperature(raw: SimulatedSession) -> None:
    first, second = (next(f for f in raw.lights if f.night == n) for n in (0, 1))
    assert (first.camera.gain, first.camera.bias, first.camera.temperature) == (5.2, 500.0, -10.0)
    assert (second.camera.gain, second.camera.bias, second.camera.temperature) == (2.6, 640.0, -4.0)
    assert first.camera.seed == second.camera.seed
    assert {f.band: f.exposure.seconds for f in raw.lights} == {"R": 120.0, "G": 120.0, "B": 180.0}
    # The sky is in DN: half the electrons a DN and half as long again make it three times as bright.
    dim, bright = (
        np.mean([f.exposure.background.level for f in raw.lights if (f.night, f.band) == key])
        for key in ((0, "R"), (1, "B"))
    )
    assert bright / dim == pytest.approx(3.0, rel=0.2)


def test_a_second_rig_sees_the_same_panels(raw: SimulatedSession) -> None:
    session = SimulatedSession.from_dict(raw.to_dict() | {"rigs": [second_rig(raw)]})
    assert SimulatedSession.from_dict(json.loads(json.dumps(session.to_dict()))) == session
    one, two = (tuple(f for f in session.lights if f.rig == r) for r in (0, 1))
    assert one == raw.lights
    assert [(f.panel, f.band, f.night, f.date) for f in one] == [(f.panel, f.band, f.night, f.date) for f in two]
    assert [f.index for f in session.descriptors()] == list(range(len(session)))
    assert len({f.name for f in session.descriptors()}) == len(session)
    assert session.shape(two[0].index) == (72, 112)
    assert session.render(two[0].index).shape == (72, 112)
    assert two[0].camera.gain == pytest.approx(0.8 * one[0].camera.gain)
    middle = [
        pixel_to_sky(
            parse_wcs(str(f.wcs and f.wcs.header())),
            np.array([(f.camera.width - 1) / 2]),
            np.array([(f.camera.height - 1) / 2]),
        )
        for f in (one[0], two[0])
    ]
    assert np.hypot(middle[0][0] - middle[1][0], middle[0][1] - middle[1][1])[0] < 20 * 6.0 / 3600


def test_overscan_moves_the_image_and_its_wcs(small: Small) -> None:
    camera = Camera(height=96, width=128, overscan=10)
    plain, wide = (raw_conditions(small(panels=(1, 1), camera=c)) for c in (Camera(height=96, width=128), camera))
    assert (plain.shape(0), wide.shape(0)) == ((96, 128), (96, 138))
    assert np.array_equal(wide.render(0)[:, 10:], plain.render(0))
    one, two = plain.header(0), wide.header(0)
    assert (two["BIASSEC"], two["TRIMSEC"]) == ("[1:10,1:96]", "[11:138,1:96]")
    assert "TRIMSEC" not in one
    assert float(two["CRPIX1"]) - float(one["CRPIX1"]) == pytest.approx(10.0)
    assert one["CRPIX2"] == two["CRPIX2"]


def test_true_pixels_are_those_of_the_image(raw: SimulatedSession) -> None:
    whole = raw.truth_pixels(1)
    assert whole.shape == (96, 128)
    assert np.array_equal(raw.truth_pixels(1, slice(3, 50), slice(70, 99)), whole[3:50, 70:99], equal_nan=True)
