"""Lights that are of no use, rigs that take turns, headers that say nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from skyloom.ops.simulation.bad_frames import KINDS
from skyloom.ops.simulation.presets import like_rig
from skyloom.ops.simulation.session import SimulatedSession

Small = Callable[..., SimulatedSession]


def test_bad_lights_come_after_the_good_ones_which_stay_as_they_are(small: Small) -> None:
    good, session = small(), small(bad=9)
    assert session.lights[: len(good)] == good.lights
    bad = session.lights[len(good) :]
    assert [f.bad for f in bad] == [list(KINDS)[n % 4] for n in range(9)]
    assert [f.index for f in session.lights] == list(range(len(session)))
    assert len({*session.paths}) == len(session)
    assert len({f.panel for f in bad}) > 4
    assert [f["bad"] for f in session.truth()["frames"]] == [f.bad for f in session.lights]
    assert SimulatedSession.from_dict(session.to_dict()) == session


def test_each_kind_is_what_it_says(small: Small) -> None:
    session = small(bad=8)
    bad = {(f.bad, n // 4): f for n, f in enumerate(session.lights[-8:])}
    pixels = {kind: np.asarray(session.render(bad[kind, 0].index), np.float64) for kind in KINDS}
    clear = np.asarray(session.render(0), np.float64)
    assert float(np.median(pixels["clouded"])) > 2 * float(np.median(clear))
    assert abs(np.median(pixels["capped"])) < 1
    assert pixels["capped"].std() < clear.std()
    assert np.hypot(*bad["trailed", 0].exposure.smear) > 10
    here, there = session.lights[0].exposure.pointing, bad["elsewhere", 0].exposure.pointing
    assert here is not None
    assert there is not None
    middle = np.array([63.5]), np.array([47.5])
    assert (here.look(*middle) @ there.look(*middle).T)[0, 0] < 0.5
    other = bad["elsewhere", 1].exposure.pointing
    assert other is not None
    assert (other.ra, other.dec) == (there.ra, there.dec)  # two frames of one place


def test_rigs_take_turns(small: Small) -> None:
    session = small(frames=3)
    session = replace(session, rigs=(like_rig(session, 1.02),), turns=True, bad=2)
    assert len(session) == 6 * 3 + 2
    assert [f.index for f in session.lights] == list(range(20))
    of = [f for f in session.lights if f.panel == (1, 1) and not f.bad]
    assert [f.rig for f in of] == [0, 0, 1]
    scales = [f.exposure.pointing.scale for f in of if f.exposure.pointing]
    assert scales == [6.0, 6.0, 6.0 * 1.02]
    assert session.header(of[2].index)["FOCALLEN"] != session.header(of[0].index)["FOCALLEN"]


def test_headers_may_say_nothing_of_the_place(small: Small) -> None:
    told, silent = small().header(0), small(solved=False).header(0)
    assert {"RA", "DEC", "CRVAL1", "CD1_1"} <= set(told)
    assert not {"RA", "DEC", "CRVAL1", "CD1_1"} & set(silent)
    assert {k: v for k, v in told.items() if k in silent} == silent


def test_a_lens_looks_at_what_was_aimed_at(small: Small) -> None:
    session = small(barrel=4.0, dither=0.0, rotation_jitter=0.0)
    plain = small(dither=0.0, rotation_jitter=0.0)
    for bent, straight in zip(session.lights, plain.lights, strict=True):
        a, b = bent.exposure.pointing, straight.exposure.pointing
        assert a is not None
        assert b is not None
        middle = np.array([63.5]), np.array([47.5])
        np.testing.assert_allclose(a.look(*middle), b.look(*middle), atol=1e-12)
        corner = np.array([127.5]), np.array([95.5])
        away = np.linalg.norm(a.look(*corner) - b.look(*corner)) / np.radians(6.0 / 3600.0)
        np.testing.assert_allclose(away, 4.0, rtol=0.02)
