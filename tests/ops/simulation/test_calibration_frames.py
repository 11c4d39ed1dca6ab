"""Sets of calibration frames: one for all lights that can share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from skyloom.ops.simulation.presets import raw_conditions, second_rig
from skyloom.ops.simulation.session import SimulatedSession

Small = Callable[..., SimulatedSession]


def keys(session: SimulatedSession, kind: str) -> list[str]:
    return [s.key for s in session.sets if s.kind == kind]


def test_every_setting_has_its_set(raw: SimulatedSession) -> None:
    assert keys(raw, "bias") == ["bias_n0", "bias_n1"]
    assert keys(raw, "dark") == ["dark_120s_n0", "dark_180s_n0", "dark_120s_n1", "dark_180s_n1"]
    assert keys(raw, "flat") == [f"flat_{band}_n{night}" for night in (0, 1) for band in "RGB"]
    flat = next(s for s in raw.sets if s.key == "flat_G_n1")
    assert (flat.bias, flat.dark, flat.seconds) == ("bias_n1", "", 2.5)
    with_darks = replace(raw, flat_darks=True)
    assert len(keys(with_darks, "flatdark")) == 6
    assert next(s for s in with_darks.sets if s.key == "flat_G_n1").dark == "flatdark_2.5s_n1"


def test_nights_share_what_was_taken_alike(small: Small) -> None:
    raw = replace(raw_conditions(small(nights=2)), gains=(), biases=(), temperatures=())
    assert keys(raw, "bias") == ["bias_n0"]
    assert keys(raw, "dark") == ["dark_120s_n0"]
    assert keys(raw, "flat") == ["flat_L_n0", "flat_L_n1"]
    warmer = replace(raw, temperatures=(-10.0, 0.0))
    assert keys(warmer, "bias") == ["bias_n0"]
    assert keys(warmer, "dark") == ["dark_120s_n0", "dark_120s_n1"]


def test_nights_without_lights_have_no_sets(small: Small) -> None:
    raw = raw_conditions(small(nights=5, frames=2))
    assert {s.night for s in raw.sets} == {f.night for f in raw.lights} == {0, 2}


def test_rigs_do_not_share(raw: SimulatedSession) -> None:
    both = replace(raw, rigs=(second_rig(raw),))
    assert len(both.sets) == 2 * len(raw.sets)
    assert both.sets[: len(raw.sets)] == raw.sets
    assert {s.camera.name for s in both.sets if s.rig == 1} == {"Skyloom simulator B"}


def test_frames_are_what_their_set_says(raw: SimulatedSession) -> None:
    by_set = {f.set: f for f in raw.descriptors() if f.set}
    level = {key: float(raw.render(frame.index).mean()) for key, frame in by_set.items()}
    assert level["bias_n0"] == pytest.approx(500.0, abs=1.0)
    assert level["bias_n1"] == pytest.approx(640.0, abs=1.0)
    # 0.15 e-/s, twice that when 6 K warmer, and 2.6 instead of 5.2 e-/DN; hot pixels on top.
    assert level["dark_120s_n0"] - level["bias_n0"] == pytest.approx(0.15 * 120 / 5.2, abs=2.0)
    assert level["dark_180s_n1"] - level["bias_n1"] == pytest.approx(0.30 * 180 / 2.6, abs=9.0)
    assert level["dark_180s_n1"] - level["bias_n1"] > 15.0
    assert 0.35 < level["flat_B_n1"] / 60000.0 < 0.47
    assert by_set["flat_B_n1"].exposure.optics == (2, 1)
    assert by_set["dark_180s_n1"].exposure.cosmic_rays > 0
