"""Dialects: each says what it knows in its own words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.headers import DIALECTS
from skyloom.ops.simulation.presets import raw_conditions
from skyloom.ops.simulation.session import SimulatedSession

Small = Callable[..., SimulatedSession]


def header(session: SimulatedSession, kind: str) -> dict[str, str | int | float]:
    return session.header(next(f.index for f in session.descriptors() if f.kind == kind))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_names_kind_exposure_and_temperature(raw: SimulatedSession, dialect: str) -> None:
    session = replace(raw, dialect=dialect)
    for kind in ("light", "bias", "dark", "flat"):
        cards = header(session, kind)
        assert kind in str(cards["IMAGETYP"]).lower()
        frame = next(f for f in session.descriptors() if f.kind == kind)
        assert float(cards.get("EXPTIME", cards.get("EXPOSURE", -1))) == frame.exposure.seconds
        assert float(cards["CCD-TEMP"]) == pytest.approx(frame.camera.temperature, abs=0.11)
        assert str(cards["DATE-OBS"]).startswith(frame.date)
        assert ("CRVAL1" in cards) == (kind == "light")


def test_what_dialects_leave_out(raw: SimulatedSession) -> None:
    cards = {d: header(replace(raw, dialect=d), "dark") for d in DIALECTS}
    assert cards["nina"]["FILTER"] == cards["ekos"]["FILTER"][0] == "R"  # type: ignore[index]
    assert "FILTER" not in cards["maxim"]
    assert "GAIN" not in cards["maxim"]
    assert "EGAIN" not in cards["asiair"]
    assert "EXPTIME" not in cards["sgp"]
    assert all("RDNOISE" not in c for d, c in cards.items() if d != "skyloom")
    flat = header(replace(raw, dialect="sgp"), "flat")
    assert flat["FILTER"] == "Red"


def test_pedestal_has_its_sign(raw: SimulatedSession) -> None:
    session = replace(raw, pedestal=100.0)
    assert header(session, "light")["PEDESTAL"] == 100.0
    assert header(replace(session, dialect="maxim"), "light")["PEDESTAL"] == -100.0
    assert "PEDESTAL" not in header(session, "dark")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("bayer", ["RGGB", "GRBG"])
def test_bayer_pattern_and_offset_lead_to_the_first_pixel(small: Small, dialect: str, bayer: str) -> None:
    camera = Camera(height=96, width=128, bayer=bayer)
    session = replace(raw_conditions(small(bands=("CFA",), camera=camera)), dialect=dialect)
    cards = header(session, "light")
    pattern, dx, dy = str(cards["BAYERPAT"]), int(cards.get("XBAYROFF", 0)), int(cards.get("YBAYROFF", 0))
    stored = "".join(pattern[(y + dy) % 2 * 2 + (x + dx) % 2] for y in (0, 1) for x in (0, 1))
    assert stored == bayer
    assert "FILTER" not in cards


def test_typed_layout_blanks_the_kind(raw: SimulatedSession) -> None:
    session = replace(raw, layout="typed", dialect="ekos")
    cards = [session.header(k) for k in range(6)]
    assert all(c.get("IMAGETYP", "") == c.get("FRAME", "") == "" for c in cards)
    assert {"IMAGETYP" in c for c in cards} == {True, False}
