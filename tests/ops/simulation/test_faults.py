"""Planted faults: named, deterministic, and told who suffers."""

from __future__ import annotations

from dataclasses import replace

from skyloom.ops.simulation.faults import BROKEN, FAULTS, ODD, belonging, planted
from skyloom.ops.simulation.session import SimulatedSession


def test_a_session_without_faults_has_all_it_needs(raw: SimulatedSession) -> None:
    assert planted(raw) == ()
    for frame in raw.lights:
        assert belonging(raw, frame) == {
            "bias": f"bias_n{frame.night}",
            "dark": f"dark_{frame.exposure.seconds:g}s_n{frame.night}",
            "flat": f"flat_{frame.band}_n{frame.night}",
        }


def test_every_fault_is_planted_by_name(raw: SimulatedSession) -> None:
    spoilt = replace(raw, faults=tuple(FAULTS))
    found = {fault.name: fault for fault in planted(spoilt)}
    assert list(found) == list(FAULTS)
    blue = {n: tuple(f.index for f in raw.lights if (f.band, f.night) == ("B", n)) for n in (0, 1)}
    assert found["missing-flat"].lights == blue[0]
    assert found["wrong-dark"].lights == blue[1]
    assert found["wrong-dark"].sets == ("dark_90s_n1",)
    assert (found["odd-size"].lights, found["broken-file"].lights) == ((ODD,), (BROKEN,))
    assert found["twin"].lights == (0,)
    keys = {s.key for s in spoilt.sets}
    assert keys == {s.key for s in raw.sets} - {"flat_B_n0", "dark_180s_n1"} | {"dark_90s_n1"}
    assert spoilt.shape(ODD) == (48, 128)
    for index, kind in ((blue[0][0], "flat"), (blue[1][0], "dark"), (ODD, "bias")):
        assert belonging(spoilt, spoilt.lights[index])[kind] == ""


def test_a_light_is_counted_under_its_own_fault(raw: SimulatedSession) -> None:
    one = replace(raw, bands=("B",), exposures=(), frames=4, faults=tuple(FAULTS))
    found = {fault.name: fault for fault in planted(one)}
    assert not {ODD, BROKEN} & set(found["missing-flat"].lights)
    assert 0 in found["missing-flat"].lights


def test_a_wrong_dark_is_like_no_other(raw: SimulatedSession) -> None:
    spoilt = replace(raw, exposures=(90.0, 120.0, 180.0), faults=("wrong-dark",))
    darks = [s.seconds for s in spoilt.sets if s.kind == "dark" and s.night == 1]
    assert darks == [90.0, 120.0, 81.0]
