"""Simulated frames as sources and as a table."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import numpy as np

from skyloom.ops.frames import open_source
from skyloom.ops.grid import parse_wcs
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.presets import raw_conditions
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sources import frame_spec, session_table

Small = Callable[..., SimulatedSession]


def test_a_frame_is_a_source_without_a_file(small: Small) -> None:
    session = small()
    source = open_source(frame_spec(session, 3))
    assert source.shape == (96, 128)
    assert source.windowed
    pixels = pickle.loads(pickle.dumps(source)).read(slice(10, 50), slice(100, 128))
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.array_equal(pixels, session.render(3)[10:50, 100:128])


def test_session_table_is_what_ingest_gives(small: Small) -> None:
    session = small()
    table = session_table(session)
    assert table.sizes["frame"] == 12
    assert len(set(table["frame"].values)) == 12
    assert set(table["frame"].values).isdisjoint(session_table(small(seed=6))["frame"].values)
    source = open_source(str(table["source"].values[2]))
    assert np.array_equal(source.read(slice(0, 96), slice(0, 128)), session.render(2))
    assert parse_wcs(str(table["wcs"].values[2])).has_celestial
    assert table["gain"].values[0] == 5.2


def test_a_spec_of_an_older_version_opens(small: Small) -> None:
    session = small()
    fields = json.loads(frame_spec(session, 3)) | {"module": "skyloom.ops.simulation.simulate"}
    assert np.array_equal(open_source(json.dumps(fields)).read(slice(0, 96), slice(0, 128)), session.render(3))


def test_a_raw_table_says_what_calibration_needs(small: Small) -> None:
    camera = Camera(height=96, width=128, overscan=8)
    session = raw_conditions(small(panels=(1, 1), bands=("R", "G"), nights=2, camera=camera, calibration_frames=2))
    table = session_table(session)
    assert set(table["width"].values) == {136}
    assert set(table["trim"].values) == {"[9:136,1:96]"}
    assert table["kind"].values.tolist().count("flat") == 8
    assert set(zip(table["temperature"].values, table["gain_setting"].values, strict=True)) == {
        (-10.0, 192.0),
        (-4.0, 385.0),
    }
    # Calibration frames come in the morning after the lights, before noon.
    assert set(table["night"].values) == {"2026-01-10", "2026-01-11"}
    assert open_source(str(table["source"].values[0])).shape == (96, 136)
    assert np.isnan(table["ra"].values[-1])
    assert parse_wcs(str(table["wcs"].values[0])).wcs.crpix[0] > 60.0
